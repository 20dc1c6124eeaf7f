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

from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.trajectory import Conditioning, StyleConditioning, Trajectory, advance, predict_together, take_step
from tests import subtests

SCHEDULERS = [
    DDIMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler,
    PNDMScheduler, UniPCMultistepScheduler,
]  # fmt: skip
WHOLE = TimeInterval(0, 1000)


def start(scheduler_class) -> Trajectory:
    scheduler = scheduler_class(num_train_timesteps=1000)
    scheduler.set_timesteps(6)
    text = [torch.ones(2, 3, 4), torch.ones(2, 4)]
    latents = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    condition = Conditioning(*text, *text, (StyleConditioning(*text, 2.0),))
    return Trajectory(latents * scheduler.init_noise_sigma, scheduler.timesteps, 0, scheduler, condition, 1.0, {})


def shrink(noisy, timestep, tokens, pooled):
    """A network that is easily followed: a share of its input."""
    return 0.3 * noisy


def steps(trajectory: Trajectory, count: int) -> Trajectory:
    """Exactly `count` steps: the walk is broken off from outside, as a hand-off does."""
    last = trajectory.step + count
    kept: list[Trajectory] = []

    def stop(after: Trajectory) -> Trajectory:
        kept.append(after)
        if after.step == last:
            raise InterruptedError
        return after

    with pytest.raises(InterruptedError):
        advance(trajectory, shrink, WHOLE, stop)
    return kept[-1]


def finish(trajectory: Trajectory) -> torch.Tensor:
    return advance(trajectory, shrink, WHOLE).latents_bchw


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
    moved.conditioning.map(lambda tensor: tensor if tensor.device.type == "meta" else pytest.fail("left behind"))
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
    begun = [replace(start(scheduler), guidance_scale=guidance, guidance_rescale=0.7).to("meta") for _ in range(3)]
    end = advance(begun[0], shrink, WHOLE)
    assert end.finished and end.latents_bchw.device.type == "meta"
    predicted = predict_together(begun[1:], shrink)
    steps = [take_step(each, *found) for each, found in zip(begun[1:], predicted, strict=True)]
    assert [each.trajectory.step for each in steps] == [1, 1]
