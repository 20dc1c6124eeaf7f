"""One of a kind at a time: a file lock that the system releases when its last holder ends, however it ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pangu.errors import UserError
from pangu.storage import Home


@contextmanager
def only_one(lock: Path, what: str, patience_seconds: float = 10.0) -> Iterator[int]:
    """Hold `lock`; yields its descriptor, which a child process may keep open too.

    Raises:
        UserError: someone else holds it.
    """
    with lock.open("w") as file:
        until = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(f"Another {what} is running (it holds {lock}); wait for it, or stop it.") from error
                time.sleep(0.1)
        yield file.fileno()


def only_preparing(home: Home, name: str) -> AbstractContextManager[int]:
    """Hold the lock under which files of a dataset are written or removed."""
    folder = home.dataset(name) / "staging"
    folder.mkdir(parents=True, exist_ok=True)
    return only_one(folder / "lock", f"prepare of '{name}'")
