"""What is measured while training runs: loss by timestep, gradient norm, speed, time per part, memory. Knows no MLflow."""

import math
import resource
import sys
import time
from collections import defaultdict

import torch
from torch import Tensor

from pangu.diffusion.interval import TimeInterval


class Laps:
    """Seconds spent in each part of the steps since the last `shares`.

    A GPU works behind the program's back: there only every `every`-th step is measured, and waited for at each lap.
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


class Meters:
    """Sums since the last log line, the skipped steps of the whole run, and a slowly forgetting loss for the outcome."""

    def __init__(
        self, interval: TimeInterval, buckets: int, smoothing_steps: int, device: torch.device, skipped_steps: int = 0
    ) -> None:
        self.loss = math.nan
        self.skipped_steps = skipped_steps
        self._interval = interval
        self._buckets = min(buckets, interval.high - interval.low)
        self._keep = 1 - 1 / max(1, smoothing_steps)
        self._device = device
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._of_bucket: dict[int, list[float]] = defaultdict(list)
        self._images = 0
        self._since = time.perf_counter()

    def add(self, loss: float, norm: float, images: int, loss_b: Tensor, timestep_b: Tensor) -> None:
        """One step: the mean loss and norm over all workers, and this worker's losses by timestep."""
        self.loss = loss if math.isnan(self.loss) else self._keep * self.loss + (1 - self._keep) * loss
        self._losses.append(loss)
        self._norms.append(norm)
        self._images += images
        for one, timestep in zip(loss_b.tolist(), timestep_b.tolist(), strict=True):
            self._of_bucket[self.bucket_of(timestep)].append(one)

    def skip(self, images: int) -> None:
        """One step from which nothing was learnt: it took its time, and its loss or norm is no number to average."""
        self.skipped_steps += 1
        self._images += images

    def bucket_of(self, timestep: int) -> int:
        """Which of the equal parts of the interval a timestep lies in."""
        width = self._interval.high - self._interval.low
        return (timestep - self._interval.low) * self._buckets // width

    def name_of(self, bucket: int) -> str:
        """E.g. `loss/t500-624`: the timesteps of the bucket, both ends included."""
        low, width = self._interval.low, self._interval.high - self._interval.low
        first, last = (low - (-part * width // self._buckets) for part in (bucket, bucket + 1))
        return f"loss/t{first}-{last - 1}"

    def metrics(self) -> dict[str, float]:
        """Means since the last call, images a second over all workers, and peak memory of this worker in GiB.

        `skipped_steps` counts from the beginning of the run. Where all steps were skipped there are no means.
        """
        means = {"loss": self._losses, "grad_norm": self._norms} if self._losses else {}
        result = {name: sum(values) / len(values) for name, values in means.items()} | {
            "skipped_steps": float(self.skipped_steps),
            "images_per_s": self._images / (time.perf_counter() - self._since),
            "memory_gib": peak_memory_gib(self._device),
        }
        for bucket, losses in sorted(self._of_bucket.items()):
            result[self.name_of(bucket)] = sum(losses) / len(losses)
        self._reset()
        return result


def peak_memory_gib(device: torch.device) -> float:
    """Most memory ever held: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
