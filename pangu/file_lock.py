"""A file lock that the system releases when its last holder ends, however it ends. POSIX."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pangu.errors import UserError

PAUSE_S = 0.1


@contextmanager
def locked(lock: Path, refusal: str = "", wait_s: float | None = 0.0) -> Iterator[int]:
    """Hold `lock`; yields its descriptor, which a child process may keep open, and with it the lock.

    wait_s: how long another holder is waited for, s; None: for as long as it takes.

    Raises:
        UserError: someone else holds it still; says `refusal`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        if wait_s is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        until = time.monotonic() + (wait_s or 0.0)
        while wait_s is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserError(refusal) from None
            time.sleep(PAUSE_S)
        yield file.fileno()
