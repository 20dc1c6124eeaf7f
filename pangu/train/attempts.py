"""Attempts at a training job: which failures are worth another one, and which attempt a run folder belongs to.

Each attempt continues from the run's own checkpoints, with as many workers as there are then. Knows Ray's errors only by their
shape.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pangu.errors import UserError
from pangu.storage import write_atomically

MAX_ATTEMPTS = 4
"""One, and three more after failures that are nobody's fault."""

ATTEMPT_FILE = "attempt"
"""Of a run folder: the id of the attempt that may write there, and of its group of workers."""

Result = TypeVar("Result")


def claim(run_folder: Path) -> str:
    """Begin an attempt: the run folder is its own from now on. Returns the attempt's id."""
    attempt = uuid.uuid4().hex
    write_atomically(run_folder / ATTEMPT_FILE, attempt.encode())
    return attempt


def claim_for_group(run_folder: Path, attempt: str) -> str:
    """Begin with one group of workers of an attempt. Returns the group's id, which is below the attempt's.

    Ray starts the workers of an attempt anew when machines come or go, and those before may live on behind a cut.

    Raises:
        UserError: a later attempt has claimed the run folder.
    """
    check_claim(run_folder, attempt)
    group = f"{attempt}/{uuid.uuid4().hex}"
    write_atomically(run_folder / ATTEMPT_FILE, group.encode())
    return group


def check_claim(run_folder: Path, claimed: str) -> None:
    """Raises UserError if a later attempt, or a later group of workers, has claimed the run folder.

    A worker behind a cut, or one that outlived its cluster's head, knows nothing of its successor and would write beside it.
    """
    owner = (run_folder / ATTEMPT_FILE).read_text()
    if owner != claimed and not owner.startswith(f"{claimed}/"):
        raise UserError(f"Another attempt at run '{run_folder.name}' has begun since; this one stops.")


def refusal_in(error: BaseException) -> UserError | None:
    """The UserError that a worker raised, if any did.

    Ray Train hands over the failures of all workers (`worker_failures`), each wrapped around the worker's own exception: when
    one worker refuses its input, the others fail too, because they lose it.
    """
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, UserError):
            return cause
    return None


def attempted(attempt: Callable[[], Result], most: int = MAX_ATTEMPTS) -> Result:
    """`attempt()` until it succeeds, at most `most` times.

    Raises:
        UserError: bad input, at once and with its own sentence; the last failure otherwise.
    """
    for number in range(1, most + 1):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:
            refusal = refusal_in(error)
            if refusal is not None:
                raise UserError(str(refusal)) from error
            if number == most:
                raise
    raise AssertionError("unreachable")
