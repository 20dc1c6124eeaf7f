"""The equations against their closed forms and against diffusers' schedulers."""

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import NoiseSchedule
from pangu.diffusion import noise as eq
from tests import subtests

SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    NoiseSchedule(beta_schedule="squaredcos_cap_v2"),
    NoiseSchedule(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
]
levels = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31)


def draw(seed: int, shape: tuple[int, ...] = (3, 2, 4, 4)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@subtests.parametrize("schedule", SCHEDULES, ids=str)
def test_alpha_bars_equal_those_of_diffusers(schedule: NoiseSchedule) -> None:
    theirs = DDIMScheduler(**schedule.model_dump()).alphas_cumprod
    torch.testing.assert_close(eq.alpha_bars(schedule), theirs, rtol=1e-5, atol=1e-7)


@subtests.parametrize("schedule", SCHEDULES, ids=str)
def test_signal_only_falls(schedule: NoiseSchedule) -> None:
    alpha_bars = eq.alpha_bars(schedule)
    assert alpha_bars.shape == (1000,)
    assert (alpha_bars.diff() < 0).all()
    assert alpha_bars[0] > 0.99


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    assert eq.alpha_bars(NoiseSchedule(rescale_betas_zero_snr=True))[-1] == 0


@subtests.parametrize("schedule", SCHEDULES, ids=str)
def test_the_betas_that_are_checked_are_those_that_are_used(schedule: NoiseSchedule) -> None:
    used = eq.betas(schedule.model_copy(update={"rescale_betas_zero_snr": False}))
    torch.testing.assert_close(torch.tensor(schedule.betas()), used, rtol=1e-4, atol=1e-7)
    assert schedule.trouble() == ""


@given(
    kind=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    total=st.sampled_from([2, 3, 10, 100, 1000, 4000]),
    start=st.floats(-12, -0.001).map(lambda power: 10**power),
    end=st.floats(-12, -0.001).map(lambda power: 10**power),
    prediction=st.sampled_from(["epsilon", "v_prediction"]),
    rescaled=st.booleans(),
)
def test_what_is_not_refused_is_finite_at_every_timestep(
    kind: str, total: int, start: float, end: float, prediction: str, rescaled: bool
) -> None:
    """The clean image and the noise are recovered from noise levels that pass."""
    schedule = NoiseSchedule(
        num_train_timesteps=total, beta_schedule=kind, beta_start=start, beta_end=end, prediction_type=prediction,
        rescale_betas_zero_snr=rescaled,
    )  # fmt: skip
    alpha_bar = eq.alpha_bars(schedule)
    back = eq.clean_from_epsilon if prediction == "epsilon" else eq.clean_from_velocity
    noisy, predicted = torch.ones(total), torch.full((total,), 0.5)
    clean, noise = back(noisy, predicted, alpha_bar), eq.epsilon_from_clean(noisy, predicted, alpha_bar)
    finite = bool((clean.isfinite() & noise.isfinite()).all())
    if not schedule.trouble():
        assert finite
        assert (alpha_bar.diff() <= 0).all()
    elif rescaled and prediction == "epsilon":
        assert not finite


@subtests.parametrize("t", [0, 499, 500, 999])
def test_adding_noise_and_velocity_equal_those_of_diffusers(t: int) -> None:
    scheduler = DDPMScheduler(**NoiseSchedule(prediction_type="v_prediction").model_dump())
    clean, noise = draw(1).float(), draw(2).float()
    timestep = torch.full((3,), t)
    alpha_bar = eq.alpha_bars(NoiseSchedule())[timestep]
    torch.testing.assert_close(eq.add_noise(clean, noise, alpha_bar), scheduler.add_noise(clean, noise, timestep))
    torch.testing.assert_close(eq.velocity(clean, noise, alpha_bar), scheduler.get_velocity(clean, noise, timestep))


@given(level=levels, seed=seeds)
def test_clean_and_epsilon_are_recovered_exactly(level: float, seed: int) -> None:
    clean, noise, alpha_bar = draw(seed), draw(seed + 1), torch.full((3,), level, dtype=torch.float64)
    noisy = eq.add_noise(clean, noise, alpha_bar)
    close = {"rtol": 1e-4, "atol": 1e-5}  # levels are kept in float32
    torch.testing.assert_close(eq.clean_from_epsilon(noisy, noise, alpha_bar), clean, **close)
    torch.testing.assert_close(eq.epsilon_from_clean(noisy, clean, alpha_bar), noise, **close)


@given(level=levels, seed=seeds)
def test_velocity_carries_both_clean_and_epsilon(level: float, seed: int) -> None:
    clean, noise, alpha_bar = draw(seed), draw(seed + 1), torch.full((3,), level, dtype=torch.float64)
    noisy, v = eq.add_noise(clean, noise, alpha_bar), eq.velocity(clean, noise, alpha_bar)
    torch.testing.assert_close(eq.clean_from_velocity(noisy, v, alpha_bar), clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eq.epsilon_from_velocity(noisy, v, alpha_bar), noise, rtol=1e-4, atol=1e-5)


@given(level=levels)
def test_unit_noise_keeps_unit_variance(level: float) -> None:
    clean, noise = draw(3, (1, 4, 64, 64)), draw(4, (1, 4, 64, 64))
    noisy = eq.add_noise(clean, noise, torch.tensor([level]))
    assert abs(float(noisy.var()) - 1) < 0.05


@given(level=levels)
def test_log_snr_inverts_to_the_signal_level(level: float) -> None:
    alpha_bar = torch.tensor([level], dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(eq.log_snr(alpha_bar)), alpha_bar)


def test_target_follows_the_prediction_type() -> None:
    clean, noise, alpha_bar = draw(1), draw(2), torch.tensor([0.3, 0.5, 0.9])
    assert torch.equal(eq.training_target(clean, noise, alpha_bar, "epsilon"), noise)
    v = eq.training_target(clean, noise, alpha_bar, "v_prediction")
    torch.testing.assert_close(v, eq.velocity(clean, noise, alpha_bar))
