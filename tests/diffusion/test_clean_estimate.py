"""Clean estimates of steps, and trajectories entered in their middle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import NoiseSchedule
from pangu.diffusion.clean_estimate import clean_estimate, noise_estimate, start_from_clean
from pangu.diffusion.training_levels import alpha_bars
from pangu.diffusion.trajectory import Conditioning, Step, Trajectory, predict_together, take_step
from pangu.models.schedulers import SAMPLERS, named_sampler, sampler
from tests import closed_forms as noise

SHAPE = (2, 3, 4, 4)


def started(schedule: NoiseSchedule, name: str = "ddim", steps: int = 10) -> Trajectory:
    scheduler = named_sampler(name, sampler(schedule))
    scheduler.set_timesteps(steps)
    said = torch.zeros(2, 1, 1)
    condition = Conditioning(said, said[:, 0], said, said[:, 0])
    return Trajectory(torch.zeros(SHAPE), scheduler.timesteps, 0, scheduler, condition, 1.0, {})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@given(t=st.integers(0, 999))
def test_estimates_invert_the_forward_process(prediction: str, t: int) -> None:
    schedule = NoiseSchedule(prediction_type=prediction)
    clean, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    alpha_bar = torch.tensor([noise.alpha_bar_at(alpha_bars(schedule), t)])
    noisy = noise.add_noise(clean, eps, alpha_bar)
    step = Step(started(schedule), float(t), noisy, noise.training_target(clean, eps, alpha_bar, prediction))
    torch.testing.assert_close(clean_estimate(step, schedule), clean, atol=2e-4, rtol=0)
    torch.testing.assert_close(noise_estimate(step, schedule), eps, atol=2e-4, rtol=0)


@given(st.floats(0, 999, allow_nan=False))
def test_the_signal_level_falls_between_indices_too(t: float) -> None:
    schedule = NoiseSchedule()
    table = alpha_bars(schedule)
    value = noise.alpha_bar_at(alpha_bars(schedule), t)
    assert float(table[min(int(t) + 1, 999)]) - 1e-6 <= value <= float(table[int(t)]) + 1e-6


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_oracle_brings_an_entered_trajectory_to_the_clean_image(name: str) -> None:
    """Where the network knows the truth, every sampler ends at it, wherever the trajectory was entered."""
    schedule = NoiseSchedule(prediction_type="v_prediction")
    clean, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    trajectory = start_from_clean(started(schedule, name), schedule, 500, clean, eps)
    here = trajectory.timestep
    assert here < 500 <= min(t for t in trajectory.timesteps.tolist() if t > here)

    first = trajectory.step

    def oracle(noisy: torch.Tensor, timestep: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        alpha_bar = torch.tensor([noise.alpha_bar_at(alpha_bars(schedule), float(timestep[0]))])
        return noise.velocity(clean, noise.epsilon_from_clean(noisy, clean, alpha_bar), alpha_bar)

    while not trajectory.finished:
        step = take_step(trajectory, *predict_together([trajectory], oracle)[0])
        level = torch.tensor([noise.alpha_bar_at(alpha_bars(schedule), step.timestep)])
        expected = noise.add_noise(clean, eps, level) if trajectory.step == first else step.noisy_bchw
        torch.testing.assert_close(step.noisy_bchw, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(clean_estimate(step, schedule), clean, atol=1e-3, rtol=0)
        trajectory = step.trajectory
    torch.testing.assert_close(trajectory.latents_bchw, clean, atol=2e-2, rtol=0)


def test_entered_below_every_timestep_is_the_clean_image_itself() -> None:
    schedule = NoiseSchedule()
    clean = torch.randn(SHAPE)
    trajectory = start_from_clean(started(schedule), schedule, 0, clean, torch.randn(SHAPE))
    assert trajectory.finished
    assert torch.equal(trajectory.latents_bchw, clean)
