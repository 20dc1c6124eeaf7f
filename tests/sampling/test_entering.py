"""Clean estimates of steps, and trajectories entered in their middle."""

import math
from dataclasses import replace

import torch

from pangu.config import NoiseSchedule
from pangu.diffusion.training_levels import alpha_bars
from pangu.models.schedulers import SAMPLERS, named_sampler, sampler
from pangu.sampling.condition import text_condition
from pangu.sampling.entering import start_from_clean
from pangu.sampling.levels import sample_level
from pangu.sampling.question import DenoiserModel, Networks, answered
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import sampling_step
from pangu.sampling.trajectory import Step, Trajectory
from tests import closed_forms as noise
from tests import subtests

SHAPE = (2, 3, 4, 4)


def started(schedule: NoiseSchedule, name: str = "ddim", steps: int = 10) -> Trajectory:
    scheduler = named_sampler(name, sampler(schedule))
    scheduler.set_timesteps(steps)
    said = torch.zeros(2, 1, 1)
    condition = text_condition(said, said[:, 0], said, said[:, 0])
    return Trajectory(torch.zeros(SHAPE), scheduler.timesteps, 0, scheduler, condition)


@subtests.parametrize("prediction", ["epsilon", "v_prediction"])
@subtests.parametrize("name", sorted(SAMPLERS))
def test_estimates_invert_the_forward_process_in_every_schedulers_own_scale(name: str, prediction: str) -> None:
    schedule = NoiseSchedule(prediction_type=prediction)
    clean, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    begun = started(schedule, name)
    for call in range(len(begun.timesteps)):
        level = sample_level(begun.scheduler, call)
        noisy = level.signal * clean + level.sigma * eps
        norm = math.hypot(level.signal, level.sigma)
        v = (level.signal * eps - level.sigma * clean) / norm
        step = Step(replace(begun, step=call + 1), noisy, eps if prediction == "epsilon" else v)
        torch.testing.assert_close(step.clean_bchw, clean, atol=2e-3, rtol=0)
        torch.testing.assert_close(step.noise_bchw, eps, atol=2e-3, rtol=0)


@subtests.parametrize("name", sorted(SAMPLERS))
def test_the_level_of_a_sample_is_that_of_the_training_at_its_timestep(name: str) -> None:
    """Indices of the training's table, for spacings that name no other."""
    schedule = NoiseSchedule()
    begun = started(schedule, name)
    table = alpha_bars(schedule)
    for call, t in enumerate(begun.timesteps.tolist()):
        level = sample_level(begun.scheduler, call)
        alpha_bar = level.signal**2 / (level.signal**2 + level.sigma**2)
        low, high = table[min(int(t) + 1, 999)], table[int(t)]
        assert float(low) - 1e-6 <= alpha_bar <= float(high) + 1e-6


@subtests.parametrize("name", sorted(SAMPLERS))
def test_an_oracle_brings_an_entered_trajectory_to_the_clean_image(name: str) -> None:
    """Where the network knows the truth, every sampler ends at it, wherever the trajectory was entered."""
    schedule = NoiseSchedule(prediction_type="v_prediction")
    clean, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    trajectory = start_from_clean(started(schedule, name), 500, clean, eps)
    here = trajectory.timestep
    assert here < 500 <= min(t for t in trajectory.timesteps.tolist() if t > here)

    def oracle(noisy: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        level = state.trajectory.level
        norm = math.hypot(level.signal, level.sigma)
        alpha_bar = torch.tensor([(level.signal / norm) ** 2])
        return noise.velocity(clean, noise.epsilon_from_clean(noisy, clean, alpha_bar), alpha_bar)

    state, first = SamplingState(DenoiserModel(oracle), trajectory), trajectory.latents_bchw
    level = trajectory.level
    torch.testing.assert_close(first, level.signal * clean + level.sigma * eps, atol=1e-5, rtol=0)
    while not state.finished:
        step = answered(sampling_step(state), Networks())
        torch.testing.assert_close(step.clean_bchw, clean, atol=2e-3, rtol=0)
    torch.testing.assert_close(state.trajectory.latents_bchw, clean, atol=2e-2, rtol=0)


def test_entered_below_every_timestep_is_the_clean_image_itself() -> None:
    clean = torch.randn(SHAPE)
    trajectory = start_from_clean(started(NoiseSchedule()), 0, clean, torch.randn(SHAPE))
    assert trajectory.finished
    assert torch.equal(trajectory.latents_bchw, clean)
