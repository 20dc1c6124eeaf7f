"""The most memory that the whole demo held at any moment."""

import contextlib
import os
import threading
import time

import psutil

from pangu.stack.processes import family, marked
from pangu.stack.supervision import MARK

SECONDS_BETWEEN_SAMPLES = 1.0
LONGEST_BETWEEN_COUNTS = 10.0
GROWN = 2**23
"""Bytes by which what processes hold goes beyond the most of before, before their shares are counted at once: the kernel looks at
each of their pages for that, which took a fifth of a core where it was done at every sample."""


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Samples, once a second, the memory of this process, its children and every process of the stack.

    A page that several processes share is counted once, in parts (PSS), so that the sum is what the machine must have.
    """

    def __init__(self, stack_id: str) -> None:
        self._stack_id = stack_id
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self.peak_mb = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample_until_stopped(self) -> None:
        most_held, counted = 0, -LONGEST_BETWEEN_COUNTS
        while not self._stopped.wait(SECONDS_BETWEEN_SAMPLES):
            processes = {p.pid: p for p in (*marked(MARK, self._stack_id), *family(psutil.Process(os.getpid())))}
            held = sum(map(_held, processes.values()))
            if held > most_held + GROWN or time.monotonic() - counted > LONGEST_BETWEEN_COUNTS:
                most_held, counted = max(held, most_held), time.monotonic()
                self.peak_mb = max(self.peak_mb, sum(map(_share, processes.values())) / 1024**2)


def _held(process: psutil.Process) -> int:
    """Bytes that lie in no file."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def _share(process: psutil.Process) -> int:
    """Bytes, of those that others hold too a part."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.rss))
