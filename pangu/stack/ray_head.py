"""`python -m pangu.stack.ray_head ARGUMENTS`: `ray start` with a small watcher of ours.

Ray's own (`--block`) does the same with all of Ray imported, 140 MB.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil

from pangu.stack.exec_fresh import PROGRAM, mark_of
from pangu.stack.processes import alive, end, marked

VITAL = ("gcs_server", "raylet", "dashboard.py", "log_monitor.py")
"""Programs whose end is the head's end; what they start themselves is their own business."""
NEEDLESS = ("ray.util.client.server",)
"""Started by `ray start`, which has no switch against it, for clients by ray://, which nobody here is: 50 MB."""
SECONDS_BETWEEN_LOOKS = 1.0
_SET_CHILD_SUBREAPER = 36
"""Of prctl(2)."""


class Ended(BaseException):
    """Somebody asked this process to end."""


def main(arguments: Sequence[str]) -> int:
    """Start a head and stay until one of its programs has ended (1), or somebody asks for its end (0)."""

    def ask(number: int, frame: FrameType | None) -> None:
        listen(signal.SIG_IGN)  # once is enough
        raise Ended

    def listen(handler: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)

    listen(ask)
    adopt()
    try:
        started = subprocess.run([sys.executable, "-m", "pangu.stack.ray_start", *arguments])
        if started.returncode:
            return started.returncode
        end(_named(NEEDLESS))
        vital = _named(VITAL)
        while len(vital) >= len(VITAL) and all(alive(process) for process in vital):
            reap()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        print("A program of the head has ended, and so the head does.", flush=True)
        return 1
    except Ended:
        return 0
    finally:
        end(marked(PROGRAM, mark_of("ray")))


def adopt() -> None:
    """On Linux, whatever a child leaves running becomes a child of this process and not of init, so that it stays the stack's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Take note of children that have ended, which would stay zombies."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _named(programs: Sequence[str]) -> list[psutil.Process]:
    """The head's processes that run one of these programs."""
    return [
        process
        for process in marked(PROGRAM, mark_of("ray"))
        if any(word.rpartition("/")[2] in programs for word in process.cmdline()[:6])
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
