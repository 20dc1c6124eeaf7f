"""A cooperation as one folder: each model's own pipeline folder, and `model_index.json`, which says how they cooperate.

model_index.json   settings of the partners and of the hand-off
main/  partner_1/  partner_2/ ...  low/   pipeline folders; `low` is a cooperation again
bridge_vae/  partner_1_bridge_vae/ ...    autoencoders of the bridges
"""

import json
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import __version__

from pangu.errors import UserError
from pangu.models.autoencoders import CLASSES
from pangu.models.sources import locate, read_config
from pangu.pipelines.coop.handoff import Handoff
from pangu.pipelines.coop.loading import load_pipeline
from pangu.pipelines.coop.partner import Partner
from pangu.storage import write_json

INDEX = "model_index.json"
OF_PARTNER = ("source", "controlnet", "bridge_vae")
"""Fields that are models; the ControlNets are in the folder of the pipeline that they control."""


def save(coop: Any, folder: Path, **arguments: Any) -> None:
    """Write a `CoopPipeline`; arguments are those of diffusers' `save_pretrained`. The index comes last.

    Raises:
        UserError: a partner holds a picture, a tensor or a function, which belongs into the call.
    """
    if arguments.pop("push_to_hub", False):
        raise UserError("push_to_hub=True is for single pipelines; call coop.push_to_hub(...) instead.")
    index: dict[str, Any] = {"_class_name": type(coop).__name__, "_diffusers_version": __version__}
    index["batched_guidance"] = coop.batched_guidance
    index["partners"] = [
        _record(partner, OF_PARTNER, adapter.name)
        for partner, adapter in zip(coop.partners, coop.models.partners, strict=True)
    ]
    index["handoff"] = None if coop.handoff is None else _record(coop.handoff, ("low",), "handoff")
    for place, pipe in _places(coop).items():
        pipe.save_pretrained(folder / place, **arguments)
    write_json(folder / INDEX, index)


def parts_of(source: str | Path, dtype: torch.dtype | None, variant: str | None) -> dict[str, Any]:
    """The arguments of the `CoopPipeline` that `save` wrote, models loaded; `low` of a hand-off is still its folder.

    Raises:
        UserError: there is no such folder.
    """
    root = _local(str(source))
    index = read_config(str(root), INDEX)
    if index is None or index.get("_class_name") != "CoopPipeline":
        raise UserError(f"{source} holds no CoopPipeline; give a folder that its save_pretrained wrote.")
    partners = [
        Partner(
            load_pipeline(root / f"partner_{place}", dtype=dtype, variant=variant),
            **values,
            bridge_vae=_autoencoder(root / f"partner_{place}_bridge_vae", dtype, variant),
        )
        for place, values in enumerate(index["partners"], 1)
    ]
    return {
        "main": load_pipeline(root / "main", dtype=dtype, variant=variant),
        "partners": partners,
        "handoff": None if index["handoff"] is None else {"low": root / "low", **index["handoff"]},
        "bridge_vae": _autoencoder(root / "bridge_vae", dtype, variant),
        "batched_guidance": index["batched_guidance"],
    }


def _places(coop: Any) -> dict[str, Any]:
    """What is saved, by its folder."""
    found = {"main": coop.main, "bridge_vae": coop.models.main_vae, "low": coop.low}
    for place, (adapter, partner) in enumerate(zip(coop.models.partners, coop.partners, strict=True), 1):
        found |= {f"partner_{place}": adapter.pipe, f"partner_{place}_bridge_vae": partner.bridge_vae}
    return {place: part for place, part in found.items() if part is not None}


def _record(settings: Partner | Handoff, models: Collection[str], who: str) -> dict[str, Any]:
    """The fields that were set, as JSON holds them."""
    record = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if entry.name in models or value is None:
            continue
        try:
            record[entry.name] = json.loads(json.dumps(value))
        except TypeError:
            raise UserError(
                f"{who}: {entry.name} is a {type(value).__name__}, which no model_index.json can hold; leave it to the call: "
                f"coop(..., partners=[{{'{entry.name}': ...}}])."
            ) from None
    return record


def _autoencoder(folder: Path, dtype: torch.dtype | None, variant: str | None) -> Any:
    if not folder.is_dir():
        return None
    name = (read_config(str(folder), "config.json") or {}).get("_class_name")
    if name is None or name not in CLASSES:
        raise UserError(f"{folder} is a {name}; autoencoders are {', '.join(CLASSES)}.")
    return CLASSES[name].from_pretrained(folder, use_safetensors=True, torch_dtype=dtype, variant=variant)


def _local(source: str) -> Path:
    """The folder of a local path, or of a hub id once it is fetched."""
    place = locate(source, "pair")
    if not Path(place).is_dir() and read_config(place, INDEX) is not None:
        from huggingface_hub import snapshot_download

        place = snapshot_download(place)
    return Path(place)
