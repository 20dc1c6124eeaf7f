"""Checkpoints written beside the training: of the moment that they were taken at, in order, and no failure lost."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pangu.config import Execution
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.train.checkpoint import CheckpointState, Snapshot
from pangu.train.loop import Hooks, train_loop
from pangu.train.saver import Saver
from pangu.train.tensor_file import NAMES, write_tensors
from tests import subtests
from tests.train.rows import random_rows, smallest_recipe

checks = subtests.Checks()

STATE = CheckpointState(role="structure", step=1, encode_id="e", recipe=tiny())


@checks
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from(list(NAMES)), min_size=6, max_size=6),
)
def safetensors_reads_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, ...]], kinds: list[torch.dtype]
) -> None:
    tensors = {f"模型.{place}": (torch.rand(shape) * 9).to(kinds[place]) for place, shape in enumerate(shapes)}
    tensors["turned"] = torch.rand(3, 4).T
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    digest = write_tensors(path, tensors)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == tensors[name].dtype and torch.equal(found[name], tensors[name]) for name in tensors)


@checks
def it_is_as_large_as_the_file_of_safetensors(tmp_path: Path) -> None:
    tensors = {"weight": torch.rand(7, 5), "step": torch.tensor(3.0), "count": torch.arange(4)}
    write_tensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


def test_what_is_written_is_what_was_there_when_it_was_taken() -> None:
    weight, written, go_on = torch.zeros(3), [], threading.Event()

    def write(taken: Snapshot) -> None:
        go_on.wait(10)
        written.append(taken.tensors["model"]["weight"].tolist())

    with Saver(write, in_background=True) as saver:
        saver(Snapshot(STATE, {"model": {"weight": weight}}))
        weight += 1  # the next step
        assert written == []
        go_on.set()
        saver(Snapshot(STATE, {"model": {"weight": weight}}))
        weight += 1
    assert written == [[0.0] * 3, [1.0] * 3]


@checks
def a_write_that_fails_is_told_at_the_next_one_or_at_the_end() -> None:
    def write(taken: Snapshot) -> None:
        raise UserError(f"no space for {taken.state.step}")

    taken = Snapshot(STATE, {"model": {"weight": torch.zeros(1)}})
    with pytest.raises(UserError, match="no space for 1"), Saver(write, in_background=True) as saver:
        saver(taken)
        saver(replace(taken, state=STATE.model_copy(update={"step": 2})))
    with pytest.raises(UserError, match="no space for 1"), Saver(write, in_background=True) as saver:
        saver(taken)
    with pytest.raises(ZeroDivisionError), Saver(write, in_background=True) as saver:
        saver(taken)
        raise ZeroDivisionError  # what ends the training is what is told


@subtests.parametrize("in_background", [False, True])
def test_every_checkpoint_is_reported_once_whole_and_in_order(in_background: bool, tmp_path: Path) -> None:
    recipe = smallest_recipe(steps=4).model_copy(update={"execution": Execution(background_checkpoints=in_background)})
    seen: list[tuple[str, bool]] = []
    hooks = Hooks(checkpoint=lambda path: seen.append((path.name, (path / "state.json").is_file())))
    train_loop("structure", recipe, random_rows(), "e", tmp_path, hooks=hooks)
    assert seen == [(f"step-{step:06d}", True) for step in range(1, 5)]


test_saver = checks.test()
