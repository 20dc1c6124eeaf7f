"""The deterministic sampler: every row once an epoch, in an order that only the seed decides."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.config import Optimization
from pangu.data.rows.training_rows import Rows, Share
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.storage import read_json, write_json
from pangu.train.loop import Hooks, train_loop
from pangu.train.randomness import draw_batch
from pangu.train.rows_by_bucket import BLOCK, RowsByBucket
from pangu.train.sampler import DeterministicSampler
from pangu.train.samples_seen import newest_checkpoint
from pangu.train.world import World
from tests import subtests
from tests.train.rows import plain_timesteps, random_rows, smallest_recipe

checks = subtests.Checks()

ORDERS = st.sampled_from(["keyed", "shuffled"])


@checks
@given(
    batches=st.integers(1, 6), batch_size=st.integers(1, 5), seed=st.integers(0, 99), epoch=st.integers(0, 3), order=ORDERS
)  # fmt: skip
def an_epoch_draws_every_row_exactly_once(batches: int, batch_size: int, seed: int, epoch: int, order) -> None:
    sampler = DeterministicSampler((0,) * (batches * batch_size), batch_size, seed, order=order)
    steps = range(epoch * batches, (epoch + 1) * batches)
    drawn = np.concatenate([sampler.rows_of(step) for step in steps])
    assert sorted(drawn.tolist()) == list(range(batches * batch_size))


@checks
@given(rows=st.integers(4, 30), seed=st.integers(0, 99))
def an_incomplete_epoch_draws_no_row_twice(rows: int, seed: int) -> None:
    sampler = DeterministicSampler((0,) * rows, 4, seed)
    drawn = np.concatenate([sampler.rows_of(step) for step in range(rows // 4)])
    assert len(set(drawn.tolist())) == len(drawn)


@checks
@given(seed=st.integers(0, 99), step=st.integers(0, 50), order=ORDERS)
def batches_never_mix_buckets(seed: int, step: int, order) -> None:
    buckets = (0,) * 9 + (1,) * 7 + (2,) * 5
    drawn = DeterministicSampler(buckets, 4, seed, order=order).rows_of(step)
    assert len({buckets[row] for row in drawn}) == 1


@checks
@given(data=st.data(), rows=st.integers(1, 3 * BLOCK), kinds=st.integers(1, 5), seed=st.integers(0, 9))
@settings(max_examples=30)
def the_rows_of_a_bucket_are_found_from_counts_alone(data, rows: int, kinds: int, seed: int) -> None:
    bucket_n = 2 * np.random.default_rng(seed).integers(0, kinds, rows)
    found = RowsByBucket(bucket_n)
    assert found.counts == dict(zip(*(one.tolist() for one in np.unique(bucket_n, return_counts=True)), strict=True))
    for bucket in found.counts:
        own = np.flatnonzero(bucket_n == bucket)
        assert found.first()[bucket] == own[0]
        places = np.array(data.draw(st.lists(st.integers(0, len(own) - 1), max_size=9)), np.int64)
        assert found.at(bucket, places).tolist() == own[places].tolist()
        end = data.draw(st.integers(0, rows))
        assert found.before(bucket, end) == (own < end).sum()


@checks
def both_orders_are_those_of_every_training_that_has_begun() -> None:
    shares = (Share(12, 0.5), Share(8, 2.0))
    for order, (plain, mixed) in PINNED.items():
        one = DeterministicSampler((0, 1) * 10, 4, 7, order=order)  # type: ignore[arg-type]
        assert [one.rows_of(step).tolist() for step in (0, 3, 4, 9)] == plain
        two = DeterministicSampler((0,) * 20, 4, 3, shares, order)  # type: ignore[arg-type]
        assert [two.rows_of(step).tolist() for step in (0, 5, 6)] == mixed
        for sampler in (one, two):
            together = np.concatenate(list(sampler.batches(0, 23)))
            assert together.tolist() == [sampler.rows_of(step).tolist() for step in range(23)]


PINNED = {
    "shuffled": (
        [[19, 3, 11, 13], [6, 12, 4, 8], [19, 5, 3, 13], [9, 17, 3, 7]],
        [[14, 12, 1, 13], [19, 16, 17, 7], [13, 12, 14, 18]],
    ),
    "keyed": (
        [[0, 2, 18, 6], [8, 12, 14, 4], [18, 12, 8, 6], [7, 5, 17, 1]],
        [[12, 18, 1, 16], [17, 12, 12, 2], [18, 5, 19, 14]],
    ),
}
"""The first as they were when it was the only order."""


def test_a_run_goes_on_in_the_order_that_it_began_with(tmp_path: Path) -> None:
    """A checkpoint of before says no order: its run has the one of then, to its end."""
    recipe, rows = smallest_recipe(steps=6), random_rows(12)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    for name, order in (("old", "shuffled"), ("new", "keyed")):
        checkpoints = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            train_loop("structure", recipe, rows, "e", checkpoints, hooks=Hooks(stop))
        path = max(checkpoints.glob("step-*")) / "state.json"
        state = read_json(path)
        assert state["row_order"] == "keyed"
        if order == "shuffled":
            write_json(path, {name: value for name, value in state.items() if name != "row_order"})
        heard = Heard(rows)
        train_loop("structure", recipe, heard, "e", checkpoints)  # type: ignore[arg-type]
        sampler = DeterministicSampler((0,) * 12, 4, recipe.seed, order=order)  # type: ignore[arg-type]
        steps = range(int(state["step"]), 6)
        assert heard.asked == [sampler.rows_of(step).tolist() for step in steps]
        assert newest_checkpoint(checkpoints) == (6, order)


class Heard:
    """Rows that note which of them are asked for as batches."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.asked = rows, list[list[int]]()

    def __getattr__(self, name: str) -> object:
        return getattr(self._rows, name)

    def __len__(self) -> int:
        return len(self._rows)

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        if len(rows) > 1:
            self.asked.append(list(rows))
        return self._rows.latents(rows)


@checks
def order_changes_with_epoch_and_seed_only() -> None:
    first, again, other = (DeterministicSampler((0,) * 40, 40, seed) for seed in (1, 1, 2))
    assert first.rows_of(3).tolist() == again.rows_of(3).tolist()
    assert first.rows_of(3).tolist() != first.rows_of(4).tolist()
    assert first.rows_of(3).tolist() != other.rows_of(3).tolist()


@checks
def a_bucket_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="Bucket 1 has 2 rows, fewer than a batch of 3"):
        DeterministicSampler((0, 0, 0, 1, 1), 3, 0)


@subtests.parametrize("workers", [1, 2, 4])
def test_workers_share_a_batch_without_changing_any_draw(workers: int) -> None:
    rows, optimization = random_rows(), Optimization()
    timesteps = plain_timesteps(rows, TimeInterval(500, 1000))
    indices = DeterministicSampler((0,) * 12, 4, 7).rows_of(5).tolist()
    whole = draw_batch(rows, indices, 0, 5, 7, timesteps, optimization)
    shares = [World(rank, workers).share(indices) for rank in range(workers)]
    parts = [draw_batch(rows, mine, position, 5, 7, timesteps, optimization) for mine, position in shares]
    for name in ("latents_bchw", "noise_bchw", "tokens_bsc", "pooled_bp", "timestep_b"):
        joined = np.concatenate([getattr(part, name).numpy() for part in parts])
        assert np.array_equal(joined, getattr(whole, name).numpy()), name


@checks
@given(window=st.integers(1, 4), step=st.integers(0, 20))
def a_window_is_a_part_of_its_rows_latents(window: int, step: int) -> None:
    rows = random_rows()
    timesteps = plain_timesteps(rows, TimeInterval(0, 500))
    batch = draw_batch(rows, [3], 0, step, 0, timesteps, Optimization(), {0: (window, window)})
    parts = rows.latents_nchw[3].float().unfold(1, window, 1).unfold(2, window, 1)
    assert batch.latents_bchw.shape == batch.noise_bchw.shape == (1, 4, window, window)
    found = [
        bool((parts[:, y, x] == batch.latents_bchw[0]).all()) for y in range(5 - window) for x in range(5 - window)
    ]
    assert any(found)


@checks
@given(min_timestep=st.integers(0, 990), step=st.integers(0, 100))
def timesteps_stay_in_the_interval_and_above_each_rows_limit(min_timestep: int, step: int) -> None:
    rows = random_rows(min_timestep=min_timestep)
    timesteps = plain_timesteps(rows, TimeInterval(500, 1000))
    batch = draw_batch(rows, list(range(12)), 0, step, 0, timesteps, Optimization())
    assert int(batch.timestep_b.min()) >= max(500, min_timestep)
    assert int(batch.timestep_b.max()) < 1000


@checks
def caption_dropout_and_language_mix_follow_their_shares() -> None:
    rows, optimization = random_rows(), Optimization(caption_dropout=0.25, zh_share=0.75)
    counts = {"empty": 0, "en": 0, "zh": 0}
    timesteps = plain_timesteps(rows, TimeInterval(0, 500))
    for step in range(100):
        batch = draw_batch(rows, list(range(12)), 0, step, 0, timesteps, optimization)
        for row, pooled in enumerate(batch.pooled_bp.half()):
            known = {"empty": rows.empty_pooled_p, "en": rows.pooled_lnp[0, row], "zh": rows.pooled_lnp[1, row]}
            counts[next(name for name, value in known.items() if pooled.equal(value))] += 1
    assert abs(counts["empty"] / 1200 - 0.25) < 0.05
    assert abs(counts["zh"] / (counts["zh"] + counts["en"]) - 0.75) < 0.05


test_sampler = checks.test()
