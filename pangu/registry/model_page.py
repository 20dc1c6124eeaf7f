"""What a person reads on the pages of the registered models: what a version draws, of what it is made, how good, how to call it.

Links go both ways between a pair, its halves, and the trainings that made them; all of it can be written again at any time.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.contract import GeneratorContract
from pangu.data.prepare.kept_cards import licence_of_version
from pangu.data.trained_on import TrainedOn
from pangu.registry import tracking
from pangu.storage import Home, read_json
from pangu.train.mlflow_names import EXPERIMENT, RUN_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LONGEST = 5000
"""Characters of a description that MLflow keeps."""
SHOWN_FIGURES = 16
PICTURES = "samples.png"
PAGE = "pangu.page"
"""Tag: digests of the descriptions that were written here last."""
WRITTEN_BEFORE = re.compile(r"\S+, \d+ files(; trained on .*)?", re.DOTALL)
"""Descriptions of releases that had no page."""
ABOUT = {
    tracking.PAIR: "Pairs of text-to-image experts that take turns in one denoising trajectory (PanGu-Draw, arXiv 2312.16486): a "
    "version names one of `pangu-structure` and one of `pangu-texture`. The alias `champion` is served, `previous` is what "
    "`pangu rollback` goes back to.",
    tracking.STRUCTURE: "Structure experts: the noisier timesteps of a pair, from pure noise down to its boundary.",
    tracking.TEXTURE: "Texture experts: the timesteps of a pair below its boundary, down to the picture.",
}
ABOUT_OTHERS = "Experts of the timesteps between those of a pair's structure and texture experts."


def write_pages(
    client: "MlflowClient",
    versions: Mapping[str, int],
    folders: Mapping[str, Path],
    contracts: Mapping[str, GeneratorContract],
    metrics: Mapping[str, float],
    sample_grid: str,
) -> None:
    """Describe a release on the pages of its models and versions, on its trainings, and with its pictures.

    versions, folders: by registered model; contracts: of the two halves.
    """
    halves = [model for model in folders if model != tracking.PAIR]
    trainings = {model: _training(client, folders[model]) for model in halves}
    for model in folders:
        if not client.get_registered_model(model).description:
            client.update_registered_model(model, ABOUT.get(model, ABOUT_OTHERS))
    pair = client.get_model_version(tracking.PAIR, str(versions[tracking.PAIR]))
    pictured = bool(pair.run_id) and _has_pictures(client, str(pair.run_id), Path(sample_grid) if sample_grid else None)
    picture = f"![Samples](get-artifact?path={PICTURES}&run_uuid={pair.run_id})\n\n" if pictured else ""
    _describe(
        client,
        tracking.PAIR,
        versions[tracking.PAIR],
        picture + _pair_said(versions, folders, contracts, trainings, metrics),
    )
    for model in halves:
        pairs = client.search_model_versions(
            f"name = '{tracking.PAIR}' and tags.`pangu.{contracts[model].role}_version` = '{versions[model]}'"
        )
        used = sorted(int(version.version) for version in pairs)
        _describe(
            client,
            model,
            versions[model],
            _half_said(contracts[model], trainings[model], folders[model])
            + "\n\nUsed by "
            + ", ".join(_link(tracking.PAIR, version) for version in used),
        )
        if (run := trainings[model]) is not None:
            _describe_training(client, run, model, versions[model])


def _pair_said(
    versions: Mapping[str, int],
    folders: Mapping[str, Path],
    contracts: Mapping[str, GeneratorContract],
    trainings: Mapping[str, "Run | None"],
    metrics: Mapping[str, float],
) -> str:
    rows = [
        f"| {_link(model, versions[model])} | {contract.interval} | {contract.resolution} px | "
        f"{_data(contract, folders[model])} | {contract.trained_steps} | {_training_said(trainings[model])} |"
        for model, contract in contracts.items()
    ]
    chosen = sorted(metrics.items())[:SHOWN_FIGURES]
    figures = "\n".join(f"| {name} | {value:.6g} |" for name, value in chosen)
    more = f"\n\n{len(metrics) - len(chosen)} more are metrics of the model." if len(metrics) > len(chosen) else ""
    prompts = read_json(folders[tracking.PAIR] / "model_index.json").get("prompts") or {}
    asked = [text for texts in prompts.values() for text in texts[:3]]
    draws = f"It was trained on captions such as {'; '.join(asked)}.\n\n" if asked else ""
    name = f"models:/{tracking.PAIR}/{versions[tracking.PAIR]}"
    return f"""{draws}| expert | timesteps | resolution | data | steps | training |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Licence of the data: {_licences(contracts, folders)}

| figure | value |
|---|---|
{figures}{more}

Where PanGu is installed:

```python
import base64, mlflow, pandas
model = mlflow.pyfunc.load_model("{name}")
images = model.predict(pandas.DataFrame({{"prompt": ["a red fox"]}}), params={{"seed": 0}})["image"]
open("fox.png", "wb").write(base64.b64decode(images[0]))
```

`mlflow models serve -m {name} --env-manager local` answers the same over HTTP;
`pangu deploy --pair-version {versions[tracking.PAIR]}` serves it for many."""


def _half_said(contract: GeneratorContract, training: "Run | None", folder: Path) -> str:
    return (
        f"Draws the timesteps {contract.interval} of {contract.schedule.num_train_timesteps}, at {contract.resolution} px; "
        f"recipe `{contract.recipe}`, {contract.trained_steps} steps on {_data(contract, folder)}; "
        f"training: {_training_said(training)}."
    )


def _describe(client: "MlflowClient", model: str, version: int, text: str) -> None:
    """On the version, unless somebody wrote something else there."""
    text = text[:LONGEST]
    found = client.get_model_version(model, str(version))
    said = found.description or ""
    ours = not said or WRITTEN_BEFORE.fullmatch(said) or _digest(said) in found.tags.get(PAGE, "")
    if ours and said != text:
        # Before the text, with that which is there: whoever is killed in between is not taken for a person.
        client.set_model_version_tag(model, str(version), PAGE, f"{_digest(said)} {_digest(text)}")
        client.update_model_version(model, str(version), text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_training(client: "MlflowClient", run: "Run", model: str, version: int) -> None:
    """On the training, unless somebody wrote something there."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    start = "Released as "
    said = run.data.tags.get(MLFLOW_RUN_NOTE, "")
    if not said or said.startswith(start):
        client.set_tag(run.info.run_id, MLFLOW_RUN_NOTE, start + _link(model, version))


def _training(client: "MlflowClient", folder: Path) -> "Run | None":
    """The training whose run folder a generator lies in, if MLflow has it."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    name = folder.absolute().parent.name
    if experiment is None or "'" in name:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_NAME}` = '{name}'", max_results=1)
    return found[0] if found else None


def _has_pictures(client: "MlflowClient", run_id: str, grid: Path | None) -> bool:
    """Whether the run of a pair has its sheet of samples, which is written if it is here and not there."""
    if any(found.path == PICTURES for found in client.list_artifacts(run_id)):
        return True
    if grid is None or not grid.is_file():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        client.log_artifact(run_id, str(shutil.copyfile(grid, Path(scratch) / PICTURES)))
    return True


def _licences(contracts: Mapping[str, GeneratorContract], folders: Mapping[str, Path]) -> str:
    found: list[str] = []
    for model, contract in contracts.items():
        mixture = TrainedOn.load(folders[model])
        if mixture is not None:
            found += mixture.licences
            continue
        licence = licence_of_version(Home.from_environment(), contract.dataset, contract.dataset_version)
        if licence is None:
            continue
        found.append(f"{licence.name}{f' ({licence.attribution})' if licence.attribution else ''}")
    return "; ".join(dict.fromkeys(found)) or "not known here"


def _data(contract: GeneratorContract, folder: Path) -> str:
    mixture = TrainedOn.load(folder)
    if mixture is not None:
        return mixture.said()
    return f"{contract.dataset}, version {contract.dataset_version}" if contract.dataset else "not known"


def _link(model: str, version: int) -> str:
    return f"[{model} {version}](#/models/{model}/versions/{version})"


def _training_said(run: "Run | None") -> str:
    return (
        f"[{run.data.tags[RUN_NAME]}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})"
        if run
        else "not in MLflow"
    )
