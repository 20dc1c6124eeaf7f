"""The model card of a pair: README.md as the hub reads it, with intervals, data, licence, figures and how to call it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from pangu.contract import GeneratorContract, check_turns
from pangu.data.card import Licence
from pangu.data.licences import check_publishable, hub_fields
from pangu.data.prepare.kept_cards import licence_of_version
from pangu.errors import UserError
from pangu.exchange.widget_pictures import WidgetPicture
from pangu.registry.fetch import pair_contracts
from pangu.storage import Home, read_json


def licence_of(contracts: Mapping[str, GeneratorContract], named: str | None) -> Licence:
    """The licence that is named, or the one of the dataset card that both halves were trained on.

    Raises:
        UserError: nobody says one, or it forbids publishing.
    """
    found = [Licence(name=named)] if named else _licences_of_data(contracts)
    if not found:
        raise UserError("Neither half says which dataset card it was trained on; name the licence by --licence.")
    check_publishable(licence.name for licence in [*found, *(_licences_of_data(contracts) if named else [])])
    if len({licence.name for licence in found}) > 1:
        both = " and ".join(sorted({licence.name for licence in found}))
        raise UserError(
            f"The halves were trained on data under several licences, {both}; name the model's own by --licence."
        )
    return found[0]


def model_card(
    pair: Path, repository: str, licence: Licence, metrics: Mapping[str, float], shown: Sequence[WidgetPicture] = ()
) -> str:
    """README.md for a pair folder: YAML for the hub between lines of ---, and Markdown for people.

    repository: OWNER/NAME, by which it is called. metrics: of `pangu evaluate`, by name. shown: pictures beside the text.
    """
    contracts = pair_contracts_of(pair)
    index = read_json(pair / "model_index.json")
    head: dict[str, object] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **hub_fields(licence.name, licence.url),
        "tags": ["pangu", "time-decoupled", "text-to-image"],
    }
    if shown:
        head["widget"] = [{"text": each.caption, "output": {"url": each.place}} for each in shown]
    gallery = "<Gallery />\n\n" if shown else ""
    sampling = index.get("sampling") or {}
    steps, guidance = sampling.get("num_inference_steps", 30), f", guidance_scale={sampling.get('guidance_scale', 3.0)}"
    if sampling.get("texture_guidance") is not None:
        guidance = ""  # each half has its own where nothing is said
    rows = "\n".join(
        f"| `{role}` | {contracts[role].interval} | {contracts[role].resolution} px | {_predicts(contracts[role])} | "
        f"{_data(contracts[role])} | {contracts[role].trained_steps} | {contracts[role].recipe} |"
        for role in contracts
    )
    figures = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(metrics.items()))
    said = f"| metric | value |\n|---|---|\n{figures}" if figures else "None were measured."
    classes = ", ".join(dict.fromkeys(f"`{index[role][1]}`" for role in contracts if index.get(role)))
    experts = " and ".join(", ".join(f"`{role}`" for role in contracts).rsplit(", ", 1))
    intro = "A pair of" if len(contracts) == 2 else str(len(contracts))
    attribution = f"\n\n{licence.attribution}" if licence.attribution else ""
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

# {repository.rpartition("/")[2]}

{gallery}{intro} text-to-image experts that take turns in one denoising trajectory (PanGu-Draw, arXiv 2312.16486, Section
3.2), from noise to the picture, each at its own timesteps.

| expert | timesteps | resolution | predicts | data | steps | recipe |
|---|---|---|---|---|---|---|
{rows}

## Use

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{repository}", custom_pipeline="pipeline", trust_remote_code=True)
pipe("a fox", num_inference_steps={steps}{guidance}).images[0]
```

This needs PanGu: where it is installed, `DiffusionPipeline.from_pretrained("{repository}")` is enough; where not, `pipeline.py`
says how to install it. {experts} are networks of diffusers ({classes}), each for its own timesteps alone.

## Figures

{said}

## Licence

{licence.name}{f" ({licence.url})" if licence.url else ""}{attribution}
"""


def pair_contracts_of(pair: Path) -> dict[str, GeneratorContract]:
    """The contracts of a pair folder, which make a pair.

    Raises:
        UserError: the folder is none.
    """
    contracts = pair_contracts(pair)
    check_turns(list(contracts.values()))
    return {str(role): contract for role, contract in contracts.items()}


def _licences_of_data(contracts: Mapping[str, GeneratorContract]) -> list[Licence]:
    """Of every dataset that a half was trained on and whose card is here."""
    found = []
    trained_on = ((contract.dataset, contract.dataset_version) for contract in contracts.values() if contract.dataset)
    for name, version in dict.fromkeys(trained_on):
        licence = licence_of_version(Home.from_environment(), name, version)
        found += [] if licence is None else [licence]
    return list(dict.fromkeys(found))


def _predicts(contract: GeneratorContract) -> str:
    return contract.schedule.prediction_type.removesuffix("_prediction")


def _data(contract: GeneratorContract) -> str:
    return f"{contract.dataset}, version {contract.dataset_version}" if contract.dataset else "not known"
