"""Losses by timestep: closed forms, and the same noise for every network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import NoiseSchedule
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.noise import add_noise, clean_from_prediction, training_target
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.evaluate.probe_latents import denoiser_of
from pangu.evaluate.timestep_loss import (
    CleanLatents,
    buckets,
    clean_errors,
    common_noise,
    loss_by_bucket,
    losses,
    mean_loss,
    prediction_errors,
    spread,
)
from pangu.pipelines.assemble import load_generator
from tests import subtests

checks = subtests.Checks()

EPSILON, VELOCITY = NoiseSchedule(), NoiseSchedule(prediction_type="v_prediction")
FLOW = NoiseSchedule(prediction_type="flow_prediction")


def unit_sample(count: int = 64) -> CleanLatents:
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return CleanLatents(latents, torch.zeros(count, 1, 1), torch.zeros(count, 1))


def silent_denoiser(noisy, timestep, tokens, pooled):
    return torch.zeros_like(noisy)


@subtests.parametrize("schedule", [EPSILON, VELOCITY, FLOW])
def test_who_predicts_the_target_has_no_loss(schedule) -> None:
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    timestep = torch.tensor([0, 400, 999])

    def oracle(noisy, t, tokens, pooled):
        levels = training_levels(schedule)
        return training_target(latents, noise, levels.level(t), levels.prediction)

    assert losses(oracle, latents, torch.zeros(3, 1, 1), torch.zeros(3, 1), timestep, noise, schedule).max() < 1e-10


@checks
def who_predicts_nothing_has_the_power_of_the_noise() -> None:
    """Of predicted noise it is 1; of velocity too, on latents of unit power."""
    for schedule in (EPSILON, VELOCITY):
        for part in loss_by_bucket(
            silent_denoiser, unit_sample(), buckets(TimeInterval(0, 1000), 1000, 4), schedule, 0
        ):
            assert part.loss == pytest.approx(1, abs=0.05)


@given(st.integers(0, 1000), st.sampled_from([EPSILON, VELOCITY, FLOW]))
def test_a_prediction_error_is_an_error_of_the_clean_latents(seed: int, schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents, noise, prediction = torch.randn(3, 2, 3, 4, 4, generator=generator).unbind()
    timestep = torch.randint(0, 700, (2,), generator=generator)
    levels = training_levels(schedule)
    level = levels.level(timestep)
    errors = prediction_errors(
        lambda *_: prediction, latents, torch.zeros(2, 1, 1), torch.zeros(2, 1), timestep, noise, schedule
    )
    noisy = add_noise(latents, noise, level)
    expected = clean_from_prediction(noisy, prediction, level, levels.prediction) - latents
    found = clean_errors(errors, level, levels.prediction)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)


@checks
@given(st.integers(0, 900), st.integers(1, 100), st.integers(1, 30))
def buckets_partition_the_interval(low: int, width: int, count: int) -> None:
    interval = TimeInterval(low, low + width)
    parts = buckets(interval, 1000, count)
    assert [t for part in parts for t in range(part.low, part.high)] == list(range(low, low + width))


@checks
@given(st.integers(0, 900), st.integers(1, 100), st.integers(1, 200))
def timesteps_are_spread_over_their_interval(low: int, width: int, count: int) -> None:
    found = spread(TimeInterval(low, low + width), count)
    assert len(found) == count
    assert low <= found.min()
    assert found.max() < low + width
    if count % width == 0:
        assert torch.equal(found.unique(return_counts=True)[1], torch.full((width,), count // width))


@checks
def noise_depends_on_seed_and_bucket_alone() -> None:
    assert torch.equal(common_noise((2, 3), 1, 500), common_noise((2, 3), 1, 500))
    assert not torch.equal(common_noise((2, 3), 1, 500), common_noise((2, 3), 1, 600))
    assert not torch.equal(common_noise((2, 3), 1, 500), common_noise((2, 3), 2, 500))


@checks
def the_mean_over_buckets_is_the_mean_over_timesteps() -> None:
    def wrong_by_t(noisy, timestep, tokens, pooled):
        return timestep.float().sqrt().reshape(-1, 1, 1, 1).expand_as(noisy)

    sample = CleanLatents(torch.zeros(400, 1, 2, 2), torch.zeros(400, 1, 1), torch.zeros(400, 1))
    parts = [TimeInterval(0, 100), TimeInterval(100, 400)]
    found = loss_by_bucket(wrong_by_t, sample, parts, EPSILON, 0)
    # The target is unit noise, so the loss is t + 1 on average.
    assert mean_loss(found) == pytest.approx(1 + sum(range(400)) / 400, rel=0.02)


def test_a_generator_is_not_asked_for_timesteps_that_it_never_trained(bench, structures) -> None:
    network, contract = load_generator(structures[0])
    encoders = bench.encoders
    arguments = (
        torch.zeros(2, encoders.latent_channels, 12, 12), torch.tensor([400, 600]),
        torch.zeros(2, encoders.max_tokens, encoders.context_channels), torch.zeros(2, encoders.pooled_channels),
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"structure generator is trained for t in \[500, 1000\), but was asked for t = 400"
    ):
        denoiser_of(network, contract, 96)(*arguments)
    assert denoiser_of(network, contract, 96, whole_range=True)(*arguments).shape == (
        2,
        encoders.latent_channels,
        12,
        12,
    )


test_timestep_loss = checks.test()
