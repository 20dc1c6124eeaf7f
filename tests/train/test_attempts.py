"""Which failures are tried again: bad luck three times, bad input never."""

import pytest

from pangu.errors import UserError
from pangu.train.attempts import MAX_ATTEMPTS, attempted


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


@pytest.mark.parametrize("failures", range(MAX_ATTEMPTS))
def test_a_dead_worker_is_tried_again(failures: int) -> None:
    attempt, made = failing(*[Group(RuntimeError("connection reset"))] * failures)
    assert attempted(attempt) == "done"
    assert len(made) == failures + 1


def test_bad_luck_ends_at_last() -> None:
    attempt, made = failing(*[Group(RuntimeError("again"))] * MAX_ATTEMPTS)
    with pytest.raises(Group):
        attempted(attempt)
    assert len(made) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    "failure",
    [UserError("Lower it."), Group(UserError("Lower it.")), Group(RuntimeError("peer lost"), UserError("Lower it."))],
)
def test_bad_input_is_said_at_once(failure: Exception) -> None:
    attempt, made = failing(failure)
    with pytest.raises(UserError, match=r"^Lower it\.$"):
        attempted(attempt)
    assert len(made) == 1
