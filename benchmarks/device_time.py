"""Time on a device whose kernels run asynchronously, and how much of it a script may take."""

import argparse
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds of the clock, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """What `work` takes."""
    began = now(device)
    work()
    return now(device) - began


def in_turns(
    works: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each of `works`, once a round, in alternating order: nobody is always the first. `warm` rounds do not count."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm, rounds):
        for name in sorted(works, reverse=number % 2 == 1):
            spent = seconds(works[name], device)
            if number >= 0:
                took[name].append(spent)
    return took


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of ten: the most that this device reaches here and now."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: left @ right, device) for _ in range(10))


def emptied(device: torch.device) -> None:
    """Give back what nobody holds any more, and forget how much was held at most."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class Budget:
    """Seconds in which new measurements may begin."""

    def __init__(self, allowed: float) -> None:
        self._end = time.monotonic() + allowed

    @property
    def spent(self) -> bool:
        return time.monotonic() >= self._end


def asked_of(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Budget, torch.device]:
    """What the command line asks, with `--device` and `--seconds` beside the parser's own; a CPU computes with one thread."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1800, help="in which measurements may begin")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    return asked, Budget(asked.seconds), device
