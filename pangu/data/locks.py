"""One ingest and one writer of a dataset at a time."""

from contextlib import AbstractContextManager
from pathlib import Path

from pangu.file_lock import locked
from pangu.storage import Home

WAIT_S = 10.0
"""A run that was just killed may take a moment to let go of its lock."""


def only_one(lock: Path, what: str, wait_s: float = WAIT_S) -> AbstractContextManager[int]:
    """Hold `lock`, or refuse in a sentence that names what runs already."""
    return locked(lock, f"Another {what} is running (it holds {lock}); wait for it, or stop it.", wait_s)


def only_preparing(home: Home, name: str) -> AbstractContextManager[int]:
    """Hold the lock under which files of a dataset are written or removed."""
    return only_one(home.dataset(name) / "staging" / "lock", f"prepare of '{name}'")
