"""A trajectory taken to another device in the middle: what moves, what stays, and that it goes on to the same end."""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from pangu.sampling.condition import Style, text_condition
from pangu.sampling.question import DenoiserModel
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory
from tests import subtests

SCHEDULERS = [
    DDIMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler,
    PNDMScheduler, UniPCMultistepScheduler,
]  # fmt: skip


def start(scheduler_class) -> Trajectory:
    scheduler = scheduler_class(num_train_timesteps=1000)
    scheduler.set_timesteps(6)
    text = [torch.ones(2, 3, 4), torch.ones(2, 4)]
    latents = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    style = Style({"tokens": text[0], "pooled": text[1]}, 2.0)
    condition = text_condition(*text, *text, [style])
    return Trajectory(latents * scheduler.init_noise_sigma, scheduler.timesteps, 0, scheduler, condition)


def shrink(noisy, timestep, tokens, pooled):
    """A network that is easily followed: a share of its input."""
    return 0.3 * noisy


def steps(trajectory: Trajectory, count: int) -> Trajectory:
    """Exactly `count` steps."""
    last = trajectory.step + count
    return walk(SamplingState(DenoiserModel(shrink), trajectory), lambda state: state.trajectory.step < last).trajectory


def finish(trajectory: Trajectory) -> torch.Tensor:
    return walk(SamplingState(DenoiserModel(shrink), trajectory)).trajectory.latents_bchw


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "set_timesteps"):
        for item in vars(value).values():
            yield from tensors(item)


@subtests.parametrize("scheduler", SCHEDULERS)
def test_history_moves_and_tables_stay(scheduler) -> None:
    middle = steps(start(scheduler), 3)
    moved = middle.to("meta")
    history = [tensor for tensor in tensors(moved.scheduler) if tensor.ndim > 1]
    assert {tensor.device.type for tensor in history} <= {"meta"}
    assert len(history) == len([tensor for tensor in tensors(middle.scheduler) if tensor.ndim > 1])
    assert moved.scheduler.timesteps.device.type == "cpu" and moved.timesteps.device.type == "cpu"
    assert moved.scheduler.alphas_cumprod.device.type == "cpu"
    assert moved.latents_bchw.device.type == "meta"
    moved.condition.map(lambda tensor: tensor if tensor.device.type == "meta" else pytest.fail("left behind"))
    assert all(tensor.device.type == "cpu" for tensor in tensors(middle.scheduler))


@subtests.parametrize("scheduler", SCHEDULERS)
def test_a_moved_trajectory_and_its_original_end_alike(scheduler) -> None:
    undisturbed = finish(start(scheduler))
    middle = steps(start(scheduler), 3)
    twin = middle.to("cpu")
    assert torch.equal(finish(twin), undisturbed)
    assert torch.equal(finish(middle), undisturbed)


@subtests.parametrize("guidance", [1.0, 3.0])
@subtests.parametrize("scheduler", SCHEDULERS)
def test_no_step_looks_at_what_is_on_the_device(scheduler, guidance: float) -> None:
    """Nothing can be read from tensors of the device `meta`: a step that asked for a value there would fail."""
    begun = start(scheduler)
    told = replace(begun.condition, guidance_scale=guidance, guidance_rescale=0.7)
    state = walk(SamplingState(DenoiserModel(shrink), replace(begun, condition=told).to("meta")))
    assert state.finished and state.trajectory.latents_bchw.device.type == "meta"
    assert state.last is not None and state.last.clean_bchw.device.type == "meta"
