"""Which experts a pipeline folder has, and which part of the noise each owns. Only configurations are read, never weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pangu.errors import UserError
from pangu.models.sources import read_config

HANDOVER = 0.8
"""Share of the steps that SDXL's base takes before its refiner, as diffusers' documentation recommends (`denoising_end`)."""
PACKED = {"FluxTransformer2DModel": 2, "Flux2Transformer2DModel": 2, "QwenImageTransformer2DModel": 2}
"""Class -> side of the squares of latents that its pipeline packs into the channels of one token."""


@dataclass(frozen=True)
class ExpertOnDisk:
    """One network of a pipeline folder, and the timesteps low <= t < high that it is asked at, of `total`.

    channels: of the latents, before packing; packing: side of the squares that are packed into one token. weights: a single file
    in the layout of the original code, in place of the folder's weights.
    """

    root: str
    subfolder: str
    network: str
    low: int
    high: int
    total: int
    channels: int
    packing: int = 1
    weights: str | None = None

    @property
    def name(self) -> str:
        return f"{self.root}/{self.subfolder}"


def read_experts(
    source: str, boundary: int | None = None, refiner: str | None = None, handover: float = HANDOVER
) -> list[ExpertOnDisk]:
    """The experts of a pipeline, the noisiest first; root and refiner are folders, or hub ids.

    Two networks take the boundary that the pipeline names; one that is alone is split at `boundary`; a base hands over to its
    refiner when `handover` of the steps are done.

    Raises:
        UserError: there is only one expert and nobody says where it ends, or there are none, or both have other latents.
    """
    index = _index(source)
    total = _timesteps(source)
    if refiner is not None:
        if boundary is not None:
            raise UserError("--boundary splits one pipeline, and --refiner adds a second one; give one of the two.")
        if not 0 < handover < 1:
            raise UserError(f"--handover must lie between 0 and 1, not {handover:g}.")
        if (other := _timesteps(refiner)) != total:
            raise UserError(
                f"{source} has {total} timesteps and its refiner {refiner} {other}; both must have as many."
            )
        ends = round(total - handover * total), total
        places = [(source, _only_network(source, index)), (refiner, _only_network(refiner, _index(refiner)))]
    elif _there(index, "transformer_2"):
        ends = _ratio_boundary(source, index, boundary, total), total
        places = [(source, "transformer"), (source, "transformer_2")]
    else:
        own = _only_network(source, index)
        if boundary is None:
            raise UserError(
                f"{source} has one expert, {own}, and no interval of timesteps; say where it is to be split by --boundary "
                f"(1 to {total - 1}), or name the second expert by --refiner."
            )
        ends, places = (boundary, total), [(source, own), (source, own)]
    if not 0 < ends[0] < total:
        raise UserError(
            f"The boundary must lie from 1 to {total - 1}, so that both experts have timesteps, not {ends[0]}."
        )
    intervals = (ends, (0, ends[0]))
    experts = [
        _expert(root, part, low, high, total) for (root, part), (low, high) in zip(places, intervals, strict=True)
    ]
    check_same_latents(*experts)
    return experts


def with_single_files(experts: Sequence[ExpertOnDisk], files: Sequence[str]) -> list[ExpertOnDisk]:
    """The same with their weights from single files: one for all of them, if they are one network, or one each, in order.

    Raises:
        UserError: there are more or fewer files than networks.
    """
    alone = len({expert.name for expert in experts}) == 1
    if len(files) not in (0, len(experts)) and not (alone and len(files) == 1):
        networks = "one, or one for each expert" if alone else f"{len(experts)}, one for each network"
        raise UserError(f"--weights is given {len(files)} times, but {experts[0].root} takes {networks}.")
    each: list[str | None] = [*files] * (len(experts) if len(files) == 1 else 1) or [None] * len(experts)
    return [replace(expert, weights=file) for expert, file in zip(experts, each, strict=True)]


def check_same_latents(one: ExpertOnDisk, other: ExpertOnDisk) -> None:
    """Raises UserError if the latents of two experts differ in channels or packing, so that they can not take turns."""
    ours, theirs = ((expert.channels, expert.packing) for expert in (one, other))
    if ours != theirs:
        raise UserError(
            f"{one.name} takes latents of {_said(*ours)}, but {other.name} of {_said(*theirs)}, so they can not take turns "
            "in one trajectory."
        )


def _said(channels: int, packing: int) -> str:
    return f"{channels} channels" + (f" packed {packing} x {packing}" if packing > 1 else "")


def _index(source: str) -> dict[str, Any]:
    index = read_config(source, "model_index.json")
    if index is None:
        raise UserError(
            f"{source} has no model_index.json; name a pipeline folder as diffusers saves it, or its hub id."
        )
    if "contracts" in index:
        raise UserError(f"{source} is a pipeline of ours already, with contracts; use it by its folder.")
    return index


def _there(index: Mapping[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and len(value) == 2 and value[1] is not None


def _only_network(source: str, index: Mapping[str, Any]) -> str:
    own = [part for part in ("unet", "transformer", "prior") if _there(index, part)]
    if not own:
        raise UserError(f"{source} is a {index.get('_class_name')} and has no denoiser that can be an expert.")
    return own[0]


def _timesteps(source: str) -> int:
    scheduler = read_config(source, "scheduler/scheduler_config.json")
    if scheduler is None:
        raise UserError(f"{source} has no scheduler, so its noise levels are unknown.")
    return int(scheduler.get("num_train_timesteps", 1000))


def _ratio_boundary(source: str, index: Mapping[str, Any], boundary: int | None, total: int) -> int:
    ratio = index.get("boundary_ratio")
    if ratio is None and boundary is None:
        raise UserError(
            f"{source} has two experts, but its boundary_ratio is not written; say by --boundary at which timestep the second "
            f"one takes over (1 to {total - 1})."
        )
    if ratio is None or boundary is not None:
        return int(boundary or 0)
    if not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise UserError(f"{source} has boundary_ratio = {ratio}, but a share of the noise between 0 and 1 is needed.")
    return round(ratio * total)


def _expert(root: str, part: str, low: int, high: int, total: int) -> ExpertOnDisk:
    config = read_config(root, f"{part}/config.json")
    if config is None:
        raise UserError(f"{root}/{part} has no config.json, although model_index.json names it.")
    network, said = str(config.get("_class_name")), str((_index(root).get(part) or [None, None])[1])
    if network != said:
        raise UserError(
            f"{root}/{part} is a {network}, but model_index.json says {said}: another architecture under one name."
        )
    packing = PACKED.get(network, 1)
    channels, rest = divmod(int(config.get("in_channels") or 0), packing * packing)
    if not channels or rest:
        raise UserError(
            f"{root}/{part} takes {config.get('in_channels')} channels, which are no latents of a {network}."
        )
    return ExpertOnDisk(root, part, network, low, high, total, channels, packing)
