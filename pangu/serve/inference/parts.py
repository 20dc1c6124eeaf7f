"""Loading one part of a released pair folder, once its files are known to be the released ones."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.config import MIDDLE_ROLES, Sampling
from pangu.contract import SHARED, expert_roles
from pangu.diffusion.presets import presets_for
from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.models.sources import CLIP_LIKE, read_config
from pangu.registry.fetch import pair_contracts
from pangu.registry.manifest import Manifest
from pangu.serve.inference.messages import Capabilities, Release
from pangu.serve.settings import Precision
from pangu.storage import read_json

if TYPE_CHECKING:
    from pangu.models.residence import Residence
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

TEXT_FOLDERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
STYLE_FOLDERS = ("structure_styles", "texture_styles")
PARTS: dict[str, tuple[str, ...]] = {
    "structure": ("structure", *STYLE_FOLDERS, "scheduler", *TEXT_FOLDERS),
    "texture": ("texture", *STYLE_FOLDERS, "scheduler"),
    "decoder": ("vae", "scheduler"),
    "coop": ("structure", "texture", *STYLE_FOLDERS, "vae", "scheduler", *TEXT_FOLDERS),
}
"""Subfolders of the pair folder that each pool of two experts reads; text is encoded where the structure is drawn, and what
styles there are, of either half, is known to both."""

SAMPLED = (*SHARED, "role", "low", "high", "resolution", "presets", "distilled")
"""The fields of a contract that decide what a generator draws; the others say where it comes from."""


def parts_of(index: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """`PARTS` of a pair folder with that index, and a part for each expert between the two."""
    texts = tuple(name for name in index if name.startswith(("tokenizer", "text_encoder")) and name not in TEXT_FOLDERS)
    middle = tuple(role for role in MIDDLE_ROLES if role in index["contracts"])
    further = {"structure": texts, "coop": (*texts, *middle)}
    parts = {part: (*below, *further.get(part, ())) for part, below in PARTS.items()}
    return parts | {role: (role, "scheduler") for role in middle}


def part_hashes(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Part -> hash of all that it draws with; two releases that share a generator share the hash of its part.

    Raises:
        UserError: the folder is no pair.
    """
    try:
        index = read_json(folder / "model_index.json")
        parts, contracts = parts_of(index), index.pop("contracts")
        sampled = {role: {name: contracts[role].get(name) for name in SAMPLED} for role in expert_roles(len(contracts))}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, UserError) as error:
        raise UserError(f"{folder} has no model_index.json with the contracts of two generators.") from error
    hashes = {}
    for part, below in parts.items():
        files = {name: sha256 for name, sha256 in manifest.files.items() if name.split("/")[0] in below}
        text = json.dumps([index, sampled, files], sort_keys=True, ensure_ascii=False)
        hashes[part] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def weight_bytes(folder: Path) -> int:
    """Of all weights of a pair, as they lie on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def capabilities_of(folder: Path) -> Capabilities:
    """What the pair in `folder` can be asked for.

    Raises:
        UserError: the folder is no pair.
    """
    contracts, index = pair_contracts(folder), read_json(folder / "model_index.json")
    contract = contracts["structure"]
    sizes = [
        f"{width}x{height}"
        for height, width in presets_for(contract.resolution, contract.presets, contract.spatial_factor)
    ]
    preferred = f"{contract.resolution}x{contract.resolution}"
    sampling = Sampling.model_validate(index.get("sampling") or {})
    students = [len(each.distilled.timesteps) for each in contracts.values() if each.distilled is not None]
    if len(students) == len(contracts):
        sampling = Sampling(num_inference_steps=sum(students), guidance_scale=1.0)
    return Capabilities(
        sizes=tuple(sorted(sizes, key=lambda size: size != preferred)),
        styles=_styles(folder, index),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        texture_guidance=sampling.texture_guidance,
        prompts=index.get("prompts") or {},
        reads_windows=_reads_windows(folder, index, contracts),
    )


def _styles(folder: Path, index: Mapping[str, Any]) -> tuple[str, ...]:
    """By prefixes, and by adapters of either half."""
    adapted = [
        read_config(str(folder), f"{name}/config.json") or {} for name in STYLE_FOLDERS if any(index.get(name) or ())
    ]
    every = [
        *(index.get("styles") or {}),
        *(style for config in adapted for style in sorted(config.get("ranks") or {})),
    ]
    return tuple(dict.fromkeys(every))


def _reads_windows(folder: Path, index: Mapping[str, Any], roles: Iterable[str]) -> bool:
    """Whether all encoders are like CLIP's, side by side, and all networks UNets, as the folder says of them."""
    kinds = [
        read_config(str(folder), f"{name}/config.json") or {}
        for name in index
        if name.startswith("text_encoder") and (folder / name).is_dir()
    ]
    networks = [(read_config(str(folder), f"{role}/config.json") or {}).get("_class_name") for role in roles]
    joined = any("joins" in ways for ways in (index.get("own_text") or {}).values())
    clip_like = all(kind.get("model_type") in CLIP_LIKE for kind in kinds)
    return bool(kinds) and clip_like and not joined and set(networks) == {"UNet2DConditionModel"}


def release_of(folder: Path) -> Release:
    """A pair folder that is in no registry, as version 0.

    Raises:
        UserError: the folder is no pair, or holds a file that would have to be unpickled.
    """
    manifest = Manifest.of(folder)
    parts, offers = part_hashes(folder, manifest), capabilities_of(folder)
    check_components(folder)
    versions = dict.fromkeys(("pair_version", "structure_version", "texture_version", "created"), 0)
    return Release(
        folder=folder.absolute(),
        sha256=manifest.sha256,
        parts=parts,
        offers=offers,
        **versions,
    )


def check_components(folder: Path) -> None:
    """Raises UserError if a component that model_index.json names has no folder, or a configuration there is no JSON object."""
    for name, kind in read_json(folder / "model_index.json").items():
        if not (isinstance(kind, list) and len(kind) == 2 and all(isinstance(each, str) for each in kind)):
            continue
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder} has no folder '{name}', which its model_index.json names; the pair is not whole."
            )
        for file in sorted((folder / name).glob("*config.json")):
            try:
                whole = isinstance(read_json(file), dict)
            except ValueError:
                whole = False
            if not whole:
                raise UserError(f"{file} holds no JSON object; the pair is damaged.")


def load_part(release: Release, part: str) -> "PanGuDrawPipeline":
    """The pipeline of `release` with only the components of `part`.

    Raises:
        UserError: the folder is gone, a file is not the released one, or the two generators do not make a pair.
    """
    folder = release.folder
    if not folder.is_dir():
        raise UserError(
            f"{folder} is gone; `pangu deploy --pair-version {release.pair_version}` fetches the release again."
        )
    manifest = Manifest.load(folder, release.sha256)
    manifest.check_file(folder, "model_index.json")
    manifest.check(folder, below=parts_of(read_json(folder / "model_index.json"))[part])
    return load_unchecked(release, part)


def load_unchecked(release: Release, part: str) -> "PanGuDrawPipeline":
    """As `load_part`, of a folder that nobody registered: its own contracts are still checked. In float32, on the CPU."""
    from pangu.pipelines.experts_pipeline import load_pair

    parts = parts_of(read_json(release.folder / "model_index.json"))
    every = {name for names in parts.values() for name in names}
    absent: dict[str, Any] = dict.fromkeys(sorted(every - set(parts[part])))
    # The constructor checks the contracts of all generators, whichever of them are loaded here.
    pipeline = load_pair(release.folder, local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    # Answers say what was cut or unknown; nobody's prompt belongs in the log of a server.
    pipeline.warns_of_text = False
    return pipeline


def placed(pipeline: Any, precision: Precision, place: "Residence | None" = None) -> Any:
    """The pipeline on the device of this process, its networks in the precision that is asked for.

    place: where its generators take turns; they wait on the host until they are asked.

    Raises:
        UserError: the device does not compute in it.
    """
    import torch

    device, dtype = best_device(), dtype_of(precision)
    if (device, dtype) != (torch.device("cpu"), torch.float32):
        waiting = [] if place is None else [pipeline.generator(role) for role in pipeline.roles]
        for part in pipeline.components.values():
            where = torch.device("cpu") if any(part is one for one in waiting) else device
            if getattr(part, "is_quantized", False):
                torch.nn.Module.to(part, where, dtype)  # diffusers moves no quantised network to another precision
            elif isinstance(part, torch.nn.Module):
                part.to(where, dtype)
    if place is not None:
        pipeline.offload_idle(place)
    return pipeline


def dtype_of(precision: Precision) -> Any:
    """What networks are kept and computed in. On a CPU bf16 is slower than fp32, so it has to be asked for."""
    import torch

    on_a_gpu = best_device().type == "cuda"
    has_bf16 = not on_a_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise UserError(f"{torch.cuda.get_device_name()} does not compute in bf16; set precision to fp32 or auto.")
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and on_a_gpu and has_bf16) else torch.float32
