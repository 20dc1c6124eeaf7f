"""What is measured while training runs: loss by timestep, gradient norm, speed, memory."""

import math
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor

from pangu.diffusion.interval import TimeInterval
from pangu.train.step import StepResult


@dataclass(frozen=True)
class Taken:
    """A step that was taken, told to the host: mean loss and norm over all workers, and this worker's losses, one a sample."""

    step: int
    loss: float
    grad_norm: float
    skipped: bool
    losses: Sequence[float]


class TrainingMetrics:
    """Sums since the last log line, the skipped steps of the whole run, and a slowly forgetting loss for the outcome.

    What a step leaves stays on the device until `settle`: a loop that asked after every step would make the device idle
    while the next one is prepared.
    """

    def __init__(
        self, interval: TimeInterval, buckets: int, smoothing_steps: int, device: torch.device, skipped_steps: int = 0
    ) -> None:
        self.loss = math.nan
        self.skipped_steps = skipped_steps
        self._interval = interval
        self._buckets = min(buckets, interval.high - interval.low)
        self._keep = 1 - 1 / max(1, smoothing_steps)
        self._device = device
        self._waiting: list[tuple[int, StepResult, Tensor]] = []
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._of_bucket: dict[int, list[float]] = defaultdict(list)
        self._images = 0
        self._since = time.perf_counter()

    def add(self, step: int, result: StepResult, images: int, timestep_b: Tensor) -> None:
        """One step of `images` samples over all workers; timestep_b: this worker's. Nothing is waited for."""
        self._waiting.append((step, result, timestep_b))
        self._images += images

    def settle(self) -> list[Taken]:
        """The steps added since the last call, in order, counted and summed from now on: the one wait for the device."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        # One transfer. Timesteps are whole numbers far below 2^24, which float32 keeps.
        told = [(r.loss[None], r.grad_norm[None], r.skipped[None], r.losses_b, t) for _, r, t in waiting]
        numbers = iter(torch.cat([tensor.float() for step in told for tensor in step]).tolist())
        taken = []
        for step, result, _ in waiting:
            loss, norm, skipped = islice(numbers, 3)
            losses, timesteps = (list(islice(numbers, len(result.losses_b))) for _ in range(2))
            taken.append(Taken(step, loss, norm, bool(skipped), losses))
            self._count(taken[-1], timesteps)
        return taken

    def _count(self, taken: Taken, timesteps: Sequence[float]) -> None:
        if taken.skipped:  # its loss or norm is no number to average
            self.skipped_steps += 1
            return
        self.loss = taken.loss if math.isnan(self.loss) else self._keep * self.loss + (1 - self._keep) * taken.loss
        self._losses.append(taken.loss)
        self._norms.append(taken.grad_norm)
        for one, timestep in zip(taken.losses, timesteps, strict=True):
            self._of_bucket[self.bucket_of(int(timestep))].append(one)

    def bucket_of(self, timestep: int) -> int:
        """Which of the equal parts of the interval a timestep lies in."""
        width = self._interval.high - self._interval.low
        return (timestep - self._interval.low) * self._buckets // width

    def name_of(self, bucket: int) -> str:
        """E.g. `loss/t500-624`: the timesteps of the bucket, both ends included."""
        part = parts_of(self._interval, self._buckets)[bucket]
        return f"loss/t{part.low}-{part.high - 1}"

    def metrics(self) -> dict[str, float]:
        """Means of what has settled since the last call, images a second over all workers, and peak memory of this one in GiB.

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


def parts_of(interval: TimeInterval, count: int) -> list[TimeInterval]:
    """`count` equal parts of an interval, fewer where it has fewer timesteps."""
    width = interval.high - interval.low
    count = min(count, width)
    edges = [interval.low - (-part * width // count) for part in range(count + 1)]
    return [TimeInterval(low, high) for low, high in pairwise(edges)]


def peak_memory_gib(device: torch.device) -> float:
    """Most memory ever held: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
