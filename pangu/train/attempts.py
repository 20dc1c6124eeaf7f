"""Which failures of a training job are worth another attempt. Pure; knows Ray's errors only by their shape.

Each attempt continues from the run's own checkpoints, with as many workers as there are then.
"""

from collections.abc import Callable
from typing import TypeVar

from pangu.errors import UserError

MAX_ATTEMPTS = 4
"""One, and three more after failures that are nobody's fault."""

Result = TypeVar("Result")


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
