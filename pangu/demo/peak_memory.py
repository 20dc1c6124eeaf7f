"""The most memory that the whole demo held at any moment."""

import contextlib
import os
import threading

import psutil

from pangu.stack.processes import family, marked
from pangu.stack.supervision import MARK

SECONDS_BETWEEN_SAMPLES = 1.0
CHANGED = 2**23
"""Bytes by which processes grow or shrink, all together, before their shares are counted anew: the kernel looks at each of their
pages for that, which took a fifth of a core where it was done at every sample."""


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Samples, once a second, the memory of this process, its children and every process of the stack.

    A page that several processes share is counted once, in parts (PSS), so that the sum is what the machine must have.
    """

    def __init__(self, stack_id: str) -> None:
        self._stack_id = stack_id
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._counted: dict[int, int] = {}
        self.peak_mb = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample_until_stopped(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_SAMPLES):
            processes = {p.pid: p for p in (*marked(MARK, self._stack_id), *family(psutil.Process(os.getpid())))}
            held = {pid: _held(process) for pid, process in processes.items()}
            if self._has_changed(held):
                self._counted = held
                self.peak_mb = max(self.peak_mb, sum(map(_share, processes.values())) / 1024**2)

    def _has_changed(self, held: dict[int, int]) -> bool:
        """Since the last count; whoever comes or goes changes the shares of all others."""
        if held.keys() != self._counted.keys():
            return True
        return sum(abs(held[pid] - self._counted[pid]) for pid in held) > CHANGED


def _held(process: psutil.Process) -> int:
    """Bytes, those that others hold too among them."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _share(process: psutil.Process) -> int:
    """Bytes, of those that others hold too a part."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.rss))
