"""Timesteps that are drawn: the recipe's density over all draws, whatever single rows may not train; functions of the seed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pangu.config import NoiseSchedule, Optimization
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.timestep_density import TimestepDensity
from pangu.errors import UserError
from pangu.train.randomness import draw_batch, generator_for
from pangu.train.sampler import DeterministicSampler
from pangu.train.timestep_sampler import MOST_WEIGHT, filled, timestep_sampler
from tests import subtests
from tests.train.rows import random_rows

checks = subtests.Checks()

STRUCTURE = TimeInterval(500, 1000)
FLOW = NoiseSchedule(prediction_type="flow_prediction", shift=2.0)


def rows_with(*min_timesteps: int, buckets: int = 1) -> EncodedRows:
    """A row for each limit."""
    return replace(random_rows(len(min_timesteps), buckets=buckets), min_timestep_n=torch.tensor(min_timesteps))


def drawn(
    rows: EncodedRows, schedule: NoiseSchedule, optimization: Optimization, epochs: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps and weights of so many epochs, as the loop draws them: by batches of the deterministic sampler."""
    timesteps = timestep_sampler(rows, STRUCTURE, schedule, optimization)
    sampler = DeterministicSampler(tuple(rows.preset_n.tolist()), len(rows), seed)
    found = []
    for step, batch in enumerate(each for several in sampler.batches(0, epochs) for each in several):
        for position, row in enumerate(batch.tolist()):
            generator, limit = generator_for(seed, step, position), int(rows.min_timestep_n[row])
            found.append(timesteps.draw(int(rows.preset_n[row]), limit, generator))
            assert max(500, limit) <= found[-1][0] < 1000
    every = np.array(found)
    return every[:, 0], every[:, 1]


def chi_square(times: np.ndarray, weights: np.ndarray, share_below: Callable[[float], float], bins: int = 25) -> float:
    """The p-value that weighted draws have a density over the interval; variances of weighted counts are sums of squares."""
    edges = np.linspace(500, 1000, bins + 1)
    counts, squares = (np.histogram(times, edges, weights=values)[0] for values in (weights, weights**2))
    shares = np.diff([share_below(edge) for edge in edges])
    expected = len(times) * shares / shares.sum()
    return float(stats.chi2.sf(((counts - expected) ** 2 / squares).sum(), bins - 1))


def skewed(rows: EncodedRows) -> np.ndarray:
    """What drawing every row uniformly above its own limit gives."""
    limits, random = np.maximum(rows.min_timestep_n.numpy(), 500), np.random.default_rng(0)
    return np.concatenate([random.integers(low, 1000, 5000) for low in limits])


@pytest.mark.long
@subtests.parametrize("sampling", ["uniform", "logit_normal", "mode"])
@subtests.parametrize("schedule", [NoiseSchedule(), FLOW], ids=["discrete", "flow"])
def test_a_third_of_the_rows_at_700_leaves_the_density_as_it_is(schedule: NoiseSchedule, sampling: str) -> None:
    rows, optimization = rows_with(0, 0, 700, 0, 0, 700), Optimization(timestep_sampling=sampling)
    times, weights = drawn(rows, schedule, optimization, 2000)
    assert (weights == 1).all(), "rows without a limit make up for the others"
    density = optimization.density(1000, schedule.shift)
    assert chi_square(times, weights, density.share_below) > 0.001
    plain = skewed(rows)
    assert chi_square(plain, np.ones(len(plain)), TimestepDensity(1000).share_below) < 1e-9
    assert (plain >= 700).mean() / 300 / ((plain < 700).mean() / 200) == pytest.approx(1.83, abs=0.1)


@checks
def many_limits_leave_the_density_as_it_is() -> None:
    times, weights = drawn(rows_with(0, 300, 510, 555, 600, 640, 700, 777, 900), NoiseSchedule(), Optimization(), 2000)
    assert chi_square(times, weights, TimestepDensity(1000).share_below) > 0.001
    assert times.min() == 500


@checks
def weights_do_what_draws_cannot() -> None:
    """Nine rows in ten may not train below 700, where two fifths of the draws should be."""
    rows = rows_with(*[700] * 9, 0, *[700] * 9, 0)
    times, weights = drawn(rows, NoiseSchedule(), Optimization(), 1500)
    low = times < 700
    assert low.mean() == pytest.approx(0.1, abs=0.01)
    assert np.unique(weights[low]) == pytest.approx(4)
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert chi_square(times, weights, TimestepDensity(1000).share_below) > 0.001


@checks
def no_sample_weighs_more_than_it_may() -> None:
    _, weights = drawn(rows_with(*[990] * 11, 0), NoiseSchedule(), Optimization(), 200)
    assert weights.max() <= MOST_WEIGHT


@checks
def what_no_row_may_train_is_left_out() -> None:
    times, weights = drawn(rows_with(700, 800, 700), NoiseSchedule(), Optimization(), 3000)
    assert times.min() == 700
    assert (weights == 1).all()
    counts, _ = np.histogram(times, np.linspace(700, 1000, 13))
    assert stats.chisquare(counts).pvalue > 0.001


@checks
def each_bucket_has_the_density() -> None:
    """Rows of one shape do not make up for those of another: a batch is of one shape, and the network sees which."""
    rows = rows_with(0, 700, 0, 700, 0, 0, 0, 0, 600, 0, 0, 900, buckets=2)
    timesteps = timestep_sampler(rows, STRUCTURE, NoiseSchedule(), Optimization())
    for bucket in (0, 1):
        limits = rows.min_timestep_n[rows.preset_n == bucket].tolist() * 1500
        values = [timesteps.draw(bucket, limit, generator_for(1, bucket, at)) for at, limit in enumerate(limits)]
        times, weights = np.array(values).T
        assert chi_square(times, weights, TimestepDensity(1000).share_below) > 0.001


@checks
@given(
    widths=st.lists(st.floats(0.01, 1), min_size=1, max_size=8),
    rows=st.lists(st.floats(0.01, 1), min_size=8, max_size=8),
)
def filling_uses_every_row_as_often_as_it_is_there_and_only_where_it_may(widths: list, rows: list) -> None:
    width_s, rows_g = np.array(widths) / sum(widths), np.array(rows[: len(widths)]) / sum(rows[: len(widths)])
    taken = filled(width_s, rows_g)
    assert (taken >= 0).all()
    assert taken.sum(1) == pytest.approx(rows_g)
    assert np.triu(taken) == pytest.approx(taken)
    feasible = all(rows_g[at:].sum() <= width_s[at:].sum() + 1e-12 for at in range(len(rows_g)))
    if feasible:
        assert taken.sum(0) == pytest.approx(width_s)


@checks
def equal_limits_draw_the_timesteps_that_they_always_drew() -> None:
    rows = rows_with(0, 300, 500)
    timesteps = timestep_sampler(rows, STRUCTURE, NoiseSchedule(), Optimization())
    for at in range(100):
        ours = timesteps.draw(0, 300, generator_for(0, 0, at))
        assert ours == (int(torch.randint(500, 1000, (), generator=generator_for(0, 0, at))), 1.0)


@subtests.parametrize("schedule", [NoiseSchedule(), FLOW], ids=["discrete", "flow"])
def test_draws_are_functions_of_seed_step_and_position(schedule: NoiseSchedule) -> None:
    rows, optimization = rows_with(0, 700, 600, 0, 700, 900), Optimization()
    one, again = (timestep_sampler(rows, STRUCTURE, schedule, optimization) for _ in range(2))
    whole = draw_batch(rows, range(6), 0, 3, 7, one, optimization)
    for first in (4, 0, 2):  # in another order, and in parts
        part = draw_batch(rows, range(first, first + 2), first, 3, 7, again, optimization)
        assert torch.equal(part.timestep_b, whole.timestep_b[first : first + 2])
    assert not torch.equal(draw_batch(rows, range(6), 0, 4, 7, one, optimization).timestep_b, whole.timestep_b)
    assert whole.timestep_b.dtype == (torch.float32 if schedule.is_flow else torch.int64)


@checks
def an_interval_that_hardly_any_draw_meets_is_refused() -> None:
    schedule = NoiseSchedule(prediction_type="flow_prediction", shift=100.0)
    with pytest.raises(
        UserError, match=r"only 5e-05 of the timesteps that uniform draws with a shift of 100 lie in \[0, 5\)"
    ):
        timestep_sampler(rows_with(0, 0), TimeInterval(0, 5), schedule, Optimization())


@checks
def a_dynamic_shift_follows_the_size_of_what_is_trained_on() -> None:
    schedule = NoiseSchedule(prediction_type="flow_prediction", use_dynamic_shifting=True)
    rows = random_rows(2, side=8)
    whole, part = (
        timestep_sampler(rows, STRUCTURE, schedule, Optimization(), windows).buckets[0].density.shift
        for windows in (None, {0: (4, 4)})
    )
    assert (whole, part) == (pytest.approx(schedule.shift_at(8, 8)), pytest.approx(schedule.shift_at(4, 4)))
    assert whole > part


test_timestep_sampler = checks.test()
