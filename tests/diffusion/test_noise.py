"""The equations against their closed forms and against diffusers' schedulers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import NoiseSchedule
from pangu.diffusion import noise as eq
from pangu.diffusion import training_levels as tables
from tests import closed_forms as paper
from tests import subtests

checks = subtests.Checks()

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
    torch.testing.assert_close(tables.alpha_bars(schedule), theirs, rtol=1e-5, atol=1e-7)


@subtests.parametrize("schedule", SCHEDULES, ids=str)
def test_signal_only_falls(schedule: NoiseSchedule) -> None:
    alpha_bars = tables.alpha_bars(schedule)
    assert alpha_bars.shape == (1000,)
    assert (alpha_bars.diff() < 0).all()
    assert alpha_bars[0] > 0.99


@checks
def zero_terminal_snr_ends_in_pure_noise() -> None:
    assert tables.alpha_bars(NoiseSchedule(rescale_betas_zero_snr=True))[-1] == 0


@subtests.parametrize("schedule", SCHEDULES, ids=str)
def test_the_betas_that_are_checked_are_those_that_are_used(schedule: NoiseSchedule) -> None:
    used = tables.betas(schedule.model_copy(update={"rescale_betas_zero_snr": False}))
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
    levels = tables.training_levels(schedule)
    level = levels.level(torch.arange(total))
    noisy, predicted = torch.ones(total), torch.full((total,), 0.5)
    clean = eq.clean_from_prediction(noisy, predicted, level, levels.prediction)
    noise = eq.prediction_from_clean(noisy, predicted, level, eq.Prediction("epsilon"))
    finite = bool((clean.isfinite() & noise.isfinite()).all())
    if not schedule.trouble():
        assert finite
        assert (level.signal.diff() <= 0).all()
    elif rescaled and prediction == "epsilon":
        assert not finite


LEVELS = [tables.training_levels(schedule) for schedule in SCHEDULES] + [
    tables.training_levels(NoiseSchedule(prediction_type="flow_prediction"))
]


@subtests.parametrize("levels", LEVELS, ids=lambda levels: f"{levels.prediction.kind}")
@given(t=st.floats(1, 997.9))
def test_timesteps_are_found_again_at_equal_log_snr(levels: tables.TrainingLevels, t: float) -> None:
    """Between indices, too; float32 levels near no noise hold about five digits of 1 - alpha_bar."""
    level = levels.level(torch.tensor([t], dtype=torch.float64))
    assert levels.timestep(float(level.log_snr)) == pytest.approx(t, abs=0.05)


@subtests.parametrize("levels", LEVELS, ids=lambda levels: f"{levels.prediction.kind}")
def test_noise_rises_with_the_timestep_and_ends_at_the_schedules_ends(levels: tables.TrainingLevels) -> None:
    assert (levels.level(torch.arange(0, 998, 0.5)).log_snr.diff() < 0).all()
    assert (levels.timestep(200.0), levels.timestep(-200.0)) in (
        (0.0, 999.0), (pytest.approx(0, abs=1e-9), pytest.approx(1000)),
    )  # fmt: skip


@checks
@given(t=st.floats(0, 999, allow_nan=False))
def a_level_between_two_indices_is_that_of_the_closed_form(t: float) -> None:
    level = tables.level_at(NoiseSchedule(), t)
    expected = paper.alpha_bar_at(tables.alpha_bars(NoiseSchedule()), t)
    assert level.signal**2 == pytest.approx(expected, rel=1e-5)
    assert level.sigma**2 == pytest.approx(1 - expected, rel=1e-3)


@checks
def a_flow_is_a_straight_line_from_the_image_to_the_noise() -> None:
    levels = tables.training_levels(NoiseSchedule(prediction_type="flow_prediction", num_train_timesteps=500))
    level = levels.level(torch.tensor([0.0, 125.0, 500.0]))
    assert (level.signal.tolist(), level.sigma.tolist()) == ([1.0, 0.75, 0.0], [0.0, 0.25, 1.0])
    clean, noise = draw(1), draw(2)
    expected = torch.stack([clean[0], 0.75 * clean[1] + 0.25 * noise[1], noise[2]])
    torch.testing.assert_close(eq.add_noise(clean, noise, level), expected)
    assert torch.equal(eq.training_target(clean, noise, level, levels.prediction), noise - clean)


@subtests.parametrize("t", [0, 499, 500, 999])
def test_adding_noise_and_velocity_equal_those_of_diffusers(t: int) -> None:
    schedule = NoiseSchedule(prediction_type="v_prediction")
    scheduler = DDPMScheduler(**schedule.model_dump())
    clean, noise = draw(1).float(), draw(2).float()
    timestep, levels = torch.full((3,), t), tables.training_levels(schedule)
    level = levels.level(timestep)
    torch.testing.assert_close(eq.add_noise(clean, noise, level), scheduler.add_noise(clean, noise, timestep))
    velocity = eq.training_target(clean, noise, level, levels.prediction)
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, timestep))


@subtests.parametrize("kind", ["epsilon", "v_prediction"])
@given(t=st.integers(0, 999), seed=seeds)
def test_what_is_trained_has_the_bits_of_the_closed_forms(kind: str, t: int, seed: int) -> None:
    """So that recipes of before there were flows train to the bits that they did."""
    schedule = NoiseSchedule(prediction_type=kind)
    clean, noise, timestep = draw(seed).float(), draw(seed + 1).float(), torch.tensor([t, 0, 999])
    levels, alpha_bar = tables.training_levels(schedule), tables.alpha_bars(schedule)[timestep]
    level = levels.level(timestep)
    assert torch.equal(eq.add_noise(clean, noise, level), paper.add_noise(clean, noise, alpha_bar))
    target = eq.training_target(clean, noise, level, levels.prediction)
    assert torch.equal(target, paper.training_target(clean, noise, alpha_bar, kind))


@subtests.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction", "sample"])
@given(signal=levels, seed=seeds)
def test_every_prediction_carries_both_the_image_and_the_noise(kind: str, signal: float, seed: int) -> None:
    """At levels of every family, one for each sample of a batch; of velocities the variance-preserving ones."""
    clean, noise, prediction = draw(seed), draw(seed + 1), eq.Prediction(kind)
    sigma = (1 - signal**2) ** 0.5
    pairs = [(signal, sigma)] * 3 if kind == "v_prediction" else [(signal, sigma), (signal, 1 - signal), (1.0, 14.6)]
    level = eq.NoiseLevel(*torch.tensor(pairs, dtype=torch.float64).T)
    noisy, predicted = eq.add_noise(clean, noise, level), eq.training_target(clean, noise, level, prediction)
    torch.testing.assert_close(eq.clean_from_prediction(noisy, predicted, level, prediction), clean)
    torch.testing.assert_close(eq.noise_from_prediction(noisy, predicted, level, prediction), noise)
    torch.testing.assert_close(eq.prediction_from_clean(noisy, clean, level, prediction), predicted)


@subtests.parametrize("kind", ["v_prediction", "flow_prediction"])
def test_velocities_and_flows_tell_everything_also_at_both_ends(kind: str) -> None:
    clean, noise, prediction = draw(1), draw(2), eq.Prediction(kind)
    for signal, sigma in ((1.0, 0.0), (0.0, 1.0)):
        level = eq.NoiseLevel(signal, sigma)
        noisy, predicted = eq.add_noise(clean, noise, level), eq.training_target(clean, noise, level, prediction)
        torch.testing.assert_close(eq.clean_from_prediction(noisy, predicted, level, prediction), clean)
        torch.testing.assert_close(eq.noise_from_prediction(noisy, predicted, level, prediction), noise)


@checks
def log_snr_is_that_of_the_powers_for_numbers_and_for_batches() -> None:
    found = eq.NoiseLevel(torch.tensor([0.6, 0.0, 1.0]), torch.tensor([0.8, 1.0, 0.0])).log_snr
    one = [eq.NoiseLevel(*pair).log_snr for pair in ((0.6, 0.8), (0.0, 1.0), (1.0, 0.0))]
    assert one == pytest.approx([math.log(0.36 / 0.64), -math.inf, math.inf])
    assert found.tolist() == pytest.approx(one)


@checks
@given(level=levels)
def unit_noise_keeps_unit_variance(level: float) -> None:
    clean, noise = draw(3, (1, 4, 64, 64)), draw(4, (1, 4, 64, 64))
    noisy = eq.add_noise(clean, noise, eq.NoiseLevel(level, (1 - level**2) ** 0.5))
    assert abs(float(noisy.var()) - 1) < 0.05


@subtests.parametrize(
    ("fields", "sentence"),
    [
        ({"shift": 3.0}, "schedule.shift belongs to flow matching"),
        (
            {"prediction_type": "flow_prediction", "beta_end": 0.02},
            "schedule.beta_end says how discrete levels are made",
        ),
        (
            {"prediction_type": "flow_prediction", "shift": 3.0, "use_dynamic_shifting": True},
            "leave out schedule.shift",
        ),
        ({"prediction_type": "flow_prediction", "max_image_seq_len": 200}, "must be above base_image_seq_len = 256"),
    ],
)
def test_settings_of_another_kind_of_schedule_are_refused(fields: dict, sentence: str) -> None:
    assert sentence in NoiseSchedule(**fields).trouble()


test_noise = checks.test()
