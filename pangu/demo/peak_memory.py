"""The most memory that the whole demo held at any moment."""

import contextlib
import os
import threading

import psutil

from pangu.stack.processes import family, marked
from pangu.stack.supervision import MARK

SECONDS_BETWEEN_SAMPLES = 1.0
CHANGED = 2**20
"""Bytes by which a process grows or shrinks before its share is counted anew: the kernel looks at each of its pages for that,
which took a fifth of a core where all processes of a stack were counted at every sample."""


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Samples, once a second, the memory of this process, its children and every process of the stack.

    A page that several processes share is counted once, in parts (PSS), so that the sum is what the machine must have.
    """

    def __init__(self, stack_id: str) -> None:
        self._stack_id = stack_id
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._counted: dict[int, tuple[int, int]] = {}
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
            self._counted = {pid: self._share(process) for pid, process in processes.items()}
            self.peak_mb = max(self.peak_mb, sum(share for _, share in self._counted.values()) / 1024**2)

    def _share(self, process: psutil.Process) -> tuple[int, int]:
        """(bytes that it holds, its share of them), the share of before where it holds as many as then."""
        try:
            held = process.memory_info().rss
            before = self._counted.get(process.pid)
            if before is not None and abs(held - before[0]) < CHANGED:
                return before
            full = process.memory_full_info()
        except psutil.Error:
            return 0, 0
        return held, getattr(full, "pss", full.rss)
