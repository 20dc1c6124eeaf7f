"""A step whose loss or gradient norm is not finite reaches nothing, and many in a row stop the run."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from pangu.config import Recipe
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.storage import read_json, write_json
from pangu.train.checkpoint import latest_checkpoint, whole_checkpoints
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.losses import objective_of
from pangu.train.randomness import draw_batch
from pangu.train.sampler import DeterministicSampler
from pangu.train.setup import initial, start
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from tests import subtests
from tests.train.rows import order_of_before, plain_timesteps, random_rows, smallest_recipe
from tests.train.test_loop import Killed, averaged, same

HUGE = 1e16
"""Latents of this size give a finite loss, and gradients that only the network of `overflowing` turns to infinity."""
KINDS = ["loss", "norm"]
STEPS = 6


def rows_with(kind: str, *bad: int) -> EncodedRows:
    """Twelve rows, of which `bad` give a loss that is NaN, or a gradient norm that is infinite though the loss is finite."""
    rows = random_rows()
    latents = rows.latents_nchw.float()
    for row in bad:
        latents[row] *= math.nan if kind == "loss" else HUGE
    return replace(rows, latents_nchw=latents)


def overflowing(recipe: Recipe, rows: EncodedRows) -> Any:
    """The usual network, whose first convolution's gradient overflows where a product of half its size would."""
    network = initial(recipe, rows, "structure")
    network.conv_in.weight.register_hook(lambda grad: torch.where(grad.abs() > 1e4, math.inf, grad))
    return network


def train(kind: str, rows: EncodedRows, folder: Path, hooks: Hooks | None = None, **optimization: object) -> Trained:
    recipe = smallest_recipe(steps=STEPS, **optimization)
    return train_loop("structure", recipe, rows, "e", folder, hooks=hooks, denoiser=overflowing(recipe, rows))


def steps_with(row: int) -> list[int]:
    sampler = DeterministicSampler((0,) * 12, 4, 0)
    return [step for step in range(STEPS) if row in sampler.rows_of(step)]


@subtests.parametrize("kind", KINDS)
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(kind: str) -> None:
    rows, recipe = rows_with(kind, 1), smallest_recipe()
    network = overflowing(recipe, rows).train()
    _, optimizer = start(network, recipe)
    states, timesteps = [], plain_timesteps(rows, TimeInterval(500, 1000))
    for number, picked in enumerate(([2, 3], [0, 1], [4, 5])):
        batch = draw_batch(rows, picked, 0, number, 0, timesteps, recipe.optimization)
        result = train_step(
            network, optimizer, [batch], 2, objective_of(recipe.schedule, recipe.optimization), recipe.optimization,
            recipe.execution, StepTimer(torch.device("cpu")),
        )  # fmt: skip
        assert (math.isfinite(result.loss), math.isfinite(result.grad_norm)) == (
            kind == "norm" or number != 1,
            number != 1,
        )
        assert float(result.skipped) == (number == 1)
        moments = [value for state in optimizer.state.values() for value in state.values()]
        states.append([tensor.detach().clone() for tensor in (*network.parameters(), *moments)])
    good, skipped, after = states
    assert all(map(torch.equal, good, skipped))
    assert not any(map(torch.equal, skipped, after))


@subtests.parametrize("kind", KINDS)
def test_a_run_with_skipped_steps_counts_them_and_resumes_from_every_step_to_the_same_bits(
    kind: str, tmp_path: Path
) -> None:
    bad = next(row for row in range(12) if len(steps_with(row)) == 2 and 5 not in steps_with(row))
    rows, counts = rows_with(kind, bad), []
    whole = train(kind, rows, tmp_path / "whole", Hooks(lambda _, metrics: counts.append(metrics["skipped_steps"])))
    assert counts == [sum(step <= at for step in steps_with(bad)) for at in range(STEPS)]
    assert whole.skipped_steps == 2
    expected = averaged(whole)
    assert all(bool(tensor.isfinite().all()) for tensor in expected.values())
    assert not same(expected, averaged(train(kind, random_rows(), tmp_path / "sound")))
    for killed_after in range(1, STEPS):
        folder, written = tmp_path / str(killed_after), []

        def stop(step: int, metrics: dict, killed_after: int = killed_after) -> None:
            if step == killed_after:
                raise Killed

        with pytest.raises(Killed):
            train(kind, rows, folder, Hooks(stop, lambda path: written.append(int(path.name[-6:]))))  # noqa: B023
        # Nothing is written right behind a skipped step.
        assert written == [done for done in range(1, killed_after) if done - 1 not in steps_with(bad)]
        resumed = train(kind, rows, folder)
        assert same(averaged(resumed), expected)
        assert (resumed.resumed_from, resumed.skipped_steps) == (max(written, default=0), 2)


@subtests.parametrize("kind", KINDS)
def test_skipped_steps_in_a_row_stop_the_run_at_its_last_good_checkpoint(kind: str, tmp_path: Path) -> None:
    """All is well in the first two steps; then every batch has a bad row."""
    sampler = DeterministicSampler((0,) * 12, 4, 0, order="shuffled")
    bad = sampler.rows_of(2).tolist()[:1] + sorted({*range(12)} - {*sampler.rows_of(0), *sampler.rows_of(1)})[:3]
    rows = rows_with(kind, *bad)
    what = "loss of structure is nan" if kind == "loss" else "gradient norm of structure is inf"
    spoilt = [step for step in range(STEPS) if set(bad) & set(sampler.rows_of(step).tolist())]
    assert spoilt[0] == 2, spoilt
    for _ in range(2):  # the same command stops with the same sentence
        with pytest.raises(UserError) as refused, order_of_before():
            train(kind, rows, tmp_path, max_skipped_steps=1)
        assert f"The {what} at step 2 (rows " in str(refused.value)
        assert "the last good checkpoint is of step 1: go on from there with another optimization" in str(refused.value)
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000001", "suspicious-step-000002"]


def test_a_run_that_diverges_leaves_no_checkpoint_that_is_not_good(tmp_path: Path) -> None:
    rows = random_rows()
    train_loop("structure", smallest_recipe(steps=1), rows, "e", tmp_path / "other")
    with pytest.raises(UserError, match=r"loss of structure is \w+ at step 5 .* begin again with a lower lr_peak"):
        train("loss", rows, tmp_path, lr_peak=1e30)
    assert list(tmp_path.glob("step-*")) == []
    with pytest.raises(UserError, match=r"a tensor of model.safetensors is not finite, .*none was written before"):
        train("loss", rows, tmp_path, lr_peak=1e30, weight_decay=1e30)
    assert [path.name for path in tmp_path.glob("*step-*")] == ["suspicious-step-000001"]


def spoil(checkpoint: Path, file: str = "optimizer.safetensors") -> None:
    """A whole checkpoint with an infinite tensor, as older code wrote them."""
    tensors = load_file(checkpoint / file)
    next(iter(tensors.values())).fill_(math.inf)
    data, state = save(tensors), read_json(checkpoint / "state.json")
    (checkpoint / file).write_bytes(data)
    write_json(checkpoint / "state.json", state | {"files": state["files"] | {file: hashlib.sha256(data).hexdigest()}})


def test_a_checkpoint_that_is_not_finite_is_passed_over_and_refused_where_it_is_the_only_one(tmp_path: Path) -> None:
    whole = averaged(train("norm", random_rows(), tmp_path))
    spoil(tmp_path / "step-000006")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1].step == 6
    resumed = train("norm", random_rows(), tmp_path)
    assert resumed.resumed_from == 5
    assert same(averaged(resumed), whole)
    for path, _ in list(whole_checkpoints(tmp_path)):
        spoil(path, "averages.safetensors")
    with pytest.raises(UserError, match=r"No checkpoint in .* is finite \(the newest is of step 6\)"):
        train("norm", random_rows(), tmp_path)
