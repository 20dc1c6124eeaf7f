"""Which failures are tried again: bad luck three times, bad input never."""

from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.train.attempts import MAX_ATTEMPTS, attempted, check_claim, claim, claim_for_group
from pangu.train.loop import Hooks, train_loop
from pangu.train.worker import claimed
from tests import subtests
from tests.train.rows import random_rows, small_recipe


class Wrapped(Exception):
    """A worker's exception, as Ray Train wraps it."""

    def __init__(self, cause: BaseException) -> None:
        self._base_exc = cause


class Group(Exception):
    """The failures of all workers, as Ray Train hands them over."""

    def __init__(self, *causes: BaseException) -> None:
        self.worker_failures = {rank: Wrapped(cause) for rank, cause in enumerate(causes)}


def failing(*failures: Exception):
    """A job that fails so, one failure an attempt, and then succeeds; and the list of its attempts."""
    made: list[int] = []

    def attempt() -> str:
        made.append(len(made))
        if len(made) <= len(failures):
            raise failures[len(made) - 1]
        return "done"

    return attempt, made


@subtests.parametrize("failures", range(MAX_ATTEMPTS))
def test_a_dead_worker_is_tried_again(failures: int) -> None:
    attempt, made = failing(*[Group(RuntimeError("connection reset"))] * failures)
    assert attempted(attempt) == "done"
    assert len(made) == failures + 1


def test_bad_luck_ends_at_last() -> None:
    attempt, made = failing(*[Group(RuntimeError("again"))] * MAX_ATTEMPTS)
    with pytest.raises(Group):
        attempted(attempt)
    assert len(made) == MAX_ATTEMPTS


@subtests.parametrize(
    "failure",
    [UserError("Lower it."), Group(UserError("Lower it.")), Group(RuntimeError("peer lost"), UserError("Lower it."))],
)
def test_bad_input_is_said_at_once(failure: Exception) -> None:
    attempt, made = failing(failure)
    with pytest.raises(UserError, match=r"^Lower it\.$"):
        attempted(attempt)
    assert len(made) == 1


def test_a_run_folder_is_the_latest_attempts(tmp_path: Path) -> None:
    first = claim(tmp_path / "run")
    check_claim(tmp_path / "run", first)
    second = claim(tmp_path / "run")
    check_claim(tmp_path / "run", second)
    with pytest.raises(UserError, match="Another attempt at run 'run' has begun since"):
        check_claim(tmp_path / "run", first)


def test_of_one_attempts_groups_of_workers_the_latest_has_the_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt = claim(run)
    before = claim_for_group(run, attempt)
    check_claim(run, before)
    after = claim_for_group(run, attempt)  # a machine was cut off, and its worker goes on
    check_claim(run, after)
    check_claim(run, attempt)  # which is what the workers beside the first of a group know
    with pytest.raises(UserError, match="Another attempt"):
        check_claim(run, before)
    claim(run)
    for superseded in (attempt, after):
        with pytest.raises(UserError, match="Another attempt"):
            check_claim(run, superseded)
    with pytest.raises(UserError, match="Another attempt"):
        claim_for_group(run, attempt)


def test_an_attempt_that_was_given_up_writes_nothing_more_and_the_next_one_goes_on(tmp_path: Path) -> None:
    run, told = tmp_path / "run", list[int]()
    old = claim(run)

    def metrics(step: int, values: dict[str, float]) -> None:
        told.append(step)
        if step == 3:
            claim(run)  # while this attempt is cut off, another one begins

    recipe, rows = small_recipe(steps=6), random_rows()
    with pytest.raises(UserError, match="Another attempt"):
        train_loop("structure", recipe, rows, "e", run / "checkpoints", None, claimed(Hooks(metrics), run, old))
    assert told == [1, 2, 3]
    resumed = train_loop(
        "structure", recipe, rows, "e", run / "checkpoints", None, claimed(Hooks(metrics), run, claim(run))
    )
    assert (resumed.resumed_from, resumed.steps, told) == (3, 6, [1, 2, 3, 4, 5, 6])
