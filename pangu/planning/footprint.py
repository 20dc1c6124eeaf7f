"""How much memory a training job takes of each device, before it is run; what does not fit is refused with what would help."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pangu.config import DenoiserShape, EdgeControl, Execution, Frozen, LoraConfig, Recipe, Role
from pangu.errors import UserError
from pangu.models.controlnet import add_control, sees_control
from pangu.models.denoisers import adapted_layers, build_denoiser, sees_lower
from pangu.models.lora import add_lora, trained_parameters
from pangu.planning.activations import StepBytes, step_bytes
from pangu.planning.operations import Shapes
from pangu.train.moments import AT_ONCE, CompactAdamW
from pangu.train.out_of_memory import NOTHING_LEFT, asked_for, remedies, set_all
from pangu.train.randomness import Batch

GIB = 2**30
FIXED_MARGIN = 1 * GIB
"""Bytes of CUDA's context and the workspaces of cuBLAS and cuDNN; assumed, as the next is."""
SHARE_MARGIN = 0.1
"""Of the activations: what convolutions copy inside themselves, and memory that lies between others."""
ROUNDING_BYTES = 24
"""A weight, for as many weights as `AT_ONCE`: float32 moments, random bits and codes during a step of compact moments."""


class Footprint(Frozen):
    """Bytes of one device, where one worker of a training job runs.

    `peak` is their sum, but for a lone worker without `accumulate`, whose gradients come as activations go.
    """

    images: int = Field(description="That go through the network at once")
    side: int = Field(description="px")
    weights: int
    gradients: int = Field(description="As views of the buckets that workers share")
    moments: int
    means: int = Field(description="On the device")
    activations: int = Field(
        description="The most that a forward and backward pass takes beside: bf16 copies of the weights too, and gradients "
        "where no bucket holds them"
    )
    margin: int = Field(description="Assumed: context, workspaces, fragments")
    peak: int
    host: int = Field(description="Copies and means in the memory of rank 0's host")


def footprint(shapes: Shapes, role: Role, execution: Execution | None = None) -> Footprint:
    """Predict one job of the recipe, or of the same with another `execution`.

    Not counted: the encoders of `latents: on_the_fly`, and what sample grids take.
    """
    recipe = shapes.recipe
    job, execution = recipe.training(role), execution or recipe.execution_of(role)
    images = max(1, job.batch_size // recipe.workers // execution.accumulate)
    apart = recipe.workers > 1 or execution.accumulate > 1
    network, trained, moments = _sizes(_kind(shapes, role), execution.moments)
    step = _step(
        _kind(shapes, role), images, job.resolution, recipe.max_tokens, execution.precision == "bf16",
        execution.gradient_checkpointing, apart,
    )  # fmt: skip
    means = trained * len(recipe.optimization.ema_decays)
    on_host = execution.ema_device == "host"
    rounding = 0 if execution.moments == "fp32" else ROUNDING_BYTES * min(trained // 4, AT_ONCE)
    margin = FIXED_MARGIN + round(SHARE_MARGIN * step.peak)
    in_turn = max(step.peak + (trained if apart else 0), trained + rounding)
    return Footprint(
        images=images,
        side=job.resolution,
        weights=network,
        gradients=trained,
        moments=moments,
        means=0 if on_host else means,
        activations=step.peak,
        margin=margin,
        peak=network + moments + (0 if on_host else means) + in_turn + margin,
        host=trained + means if on_host else 0,
    )


def footprints(recipe: Recipe) -> dict[Role, Footprint]:
    """Of every job of the recipe."""
    shapes = Shapes(recipe)
    return {role: footprint(shapes, role) for role in recipe.roles}


def check_fits(recipe: Recipe, found: dict[Role, Footprint], memory_gib: float) -> None:
    """Raises UserError if a job does not fit a device of that memory; the sentence names the first switch that helps."""
    for role, one in found.items():
        if one.peak > memory_gib * GIB:
            share = recipe.training(role).batch_size // recipe.workers
            raise UserError(
                f"A training step of {role} with {asked_for(recipe, role, recipe.workers)} would take "
                f"{one.peak / GIB:.1f} GiB of a device that has {memory_gib:g}; {_helps(recipe, role, share, memory_gib)}."
            )


def _helps(recipe: Recipe, role: Role, share: int, memory_gib: float) -> str:
    """The first switch that is enough by itself, or else as many as it takes, from the first on."""
    shapes, given = Shapes(recipe), remedies(recipe.execution_of(role), share)
    together: dict[str, Any] = {}

    def fits(changes: dict[str, Any]) -> bool:
        return footprint(shapes, role, recipe.execution_of(role).model_copy(update=changes)).peak <= memory_gib * GIB

    for changes in given:
        if fits(changes):
            return set_all(changes, share)
    for changes in given:
        together |= changes
        if fits(together):
            return set_all(together, share)
    return f"no switch of execution makes it fit: {NOTHING_LEFT}"


class _Kind(Frozen):
    """What decides how a network is built."""

    config: DenoiserShape
    channels: tuple[int, int, int]
    lower: bool
    lora: LoraConfig | None
    control: EdgeControl | None


def _kind(shapes: Shapes, role: Role) -> _Kind:
    recipe = shapes.recipe
    return _Kind(
        config=recipe.denoiser_of(role),
        channels=(shapes.latent_channels, shapes.tokens, shapes.pooled),
        lower=sees_lower(role),
        lora=recipe.lora,
        control=recipe.training(role).control if sees_control(role) else None,
    )


def _network(kind: _Kind) -> Any:
    with torch.device("meta"):
        network: Any = build_denoiser(kind.config, *kind.channels, lower=kind.lower)
        if kind.lora is not None:
            add_lora(network, adapted_layers(kind.lora, network), 0)
        if kind.control is not None:
            network = add_control(network, 8, 0)
    return network


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@lru_cache(maxsize=64)
def _sizes(kind: _Kind, moments: str) -> tuple[int, int, int]:
    """Bytes of all weights, of those that are trained, and of the optimizer's state for these."""
    network = _network(kind)
    trained = trained_parameters(network)
    whole = _bytes([*network.parameters(), *network.buffers()])
    if moments == "fp32":
        return whole, _bytes(trained), 2 * _bytes(trained) + 4 * len(trained)  # and a number of steps each
    optimizer = CompactAdamW(trained, moments)  # type: ignore[arg-type]
    return whole, _bytes(trained), _bytes(value for state in optimizer.state.values() for value in state.values())


@lru_cache(maxsize=64)
def _step(
    kind: _Kind, images: int, side: int, tokens: int, bf16: bool, recomputes: bool, gradients_apart: bool
) -> StepBytes:
    latent, context, pooled = kind.channels
    like = torch.empty(images, latent, side // 8, side // 8, device="meta")
    batch = Batch(
        latents_bchw=like,
        noise_bchw=like.clone(),
        tokens_bsc=torch.empty(images, tokens, context, device="meta"),
        pooled_bp=torch.empty(images, pooled, device="meta"),
        timestep_b=torch.zeros(images, dtype=torch.int64, device="meta"),
        preset=0,
        lower_bchw=like.clone() if kind.lower else None,
        control_bchw=None if kind.control is None else torch.empty(images, 3, side, side, device="meta"),
    )
    return step_bytes(_network(kind), batch, bf16, recomputes, gradients_apart)
