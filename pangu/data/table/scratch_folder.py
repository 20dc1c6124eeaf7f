"""Folders for files on the way, which go with whoever made them; what a killed process left, goes with the next of its kind."""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_HELD = ".held"
"""A file in each folder that is locked for as long as somebody uses the folder."""
FORSAKEN_S = 86_400
"""A folder that nothing tells to be in use is deleted after so long, s: one of an earlier version, or without file locks."""


class ScratchFolder:
    """A new folder, gone with this object or when its block ends.

    Args:
        prefix: Of its name. Others of that prefix beside it whose process has ended are deleted first.
        parent: Where it is made; None: the temporary folder.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        place = Path(tempfile.gettempdir() if parent is None else parent)
        clear(place, prefix)
        held = -1
        while held < 0:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            held = _hold(self.path)
        self._finish = weakref.finalize(self, _end, self.path, held)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finish()


def clear(place: Path, prefix: str) -> None:
    """Delete the folders of that prefix in `place` that nobody uses any more."""
    for left in place.glob(f"{prefix}*/"):
        with suppress(OSError):
            if left.stat().st_uid == os.getuid() and not left.is_symlink() and not _in_use(left):
                shutil.rmtree(left, ignore_errors=True)


def _hold(folder: Path) -> int:
    """The descriptor that holds a new folder, for as long as it is open; -1 if somebody cleared it away before."""
    try:
        held = os.open(folder / _HELD, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # where there are no locks, its age tells
        fcntl.flock(held, fcntl.LOCK_EX)
    if (folder / _HELD).exists():
        return held
    os.close(held)
    return -1


def _in_use(folder: Path) -> bool:
    try:
        held = os.open(folder / _HELD, os.O_RDWR)
    except FileNotFoundError:
        # Being made this very moment, if it is not of an earlier version.
        return folder.stat().st_mtime > time.time() - FORSAKEN_S
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return folder.stat().st_mtime > time.time() - FORSAKEN_S
    finally:
        os.close(held)
    return False


def _end(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
