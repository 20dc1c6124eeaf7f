"""Batches drawn ahead of the step that uses them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Drawn = TypeVar("Drawn")


def prefetched(draw: Callable[[int], Drawn], steps: range, ahead: int) -> Iterator[Drawn]:
    """`draw(step)` for every step in order, up to `ahead` of them drawn by one background thread; 0 draws in turn."""
    if ahead == 0:
        yield from map(draw, steps)
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting: deque[Future[Drawn]] = deque(thread.submit(draw, step) for step in steps[:ahead])
        for step in steps:
            if step + ahead < steps.stop:
                waiting.append(thread.submit(draw, step + ahead))
            yield waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
