"""Where the time of the steps goes."""

import time
from collections import defaultdict

import torch


class StepTimer:
    """Seconds spent in each part of the steps since the last `shares`.

    Kernels run asynchronously on a GPU: there only every `every`-th step is measured, with a synchronisation after each part.
    """

    def __init__(self, device: torch.device, every: int = 1) -> None:
        self._cuda = device.type == "cuda"
        self._every = every
        self._seconds: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._measured = True
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A step begins."""
        self._measured = not self._cuda or self._steps % self._every == 0
        self._steps += 1
        if self._measured:
            self._wait()
            self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """What ran since the last lap was `part`."""
        if self._measured:
            self._wait()
            now = time.perf_counter()
            self._seconds[part] += now - self._since
            self._since = now

    def shares(self) -> dict[str, float]:
        """Share of the measured time per part, as `time/PART` in [0, 1], and start again."""
        total = sum(self._seconds.values()) or 1.0
        result = {f"time/{part}": seconds / total for part, seconds in self._seconds.items()}
        self._seconds.clear()
        return result

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
