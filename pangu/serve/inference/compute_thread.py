"""The one thread of a process that computes, so that its event loop always answers."""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pangu.garbage import look_seldom

SWITCH_S = 0.0005
Result = TypeVar("Result")


class Worker:
    """Runs functions one after the other, in the order they were given.

    threads: what Torch may use; None takes half of the cores, because two pools draw at the same time.
    """

    def __init__(self, threads: int | None = None) -> None:
        look_seldom()
        import torch

        # Small networks spend much of a step in Python; the event loop must not wait for 5 ms at each of its turns.
        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drawing")
        self._waiting: set[object] = set()

    @property
    def is_awaited(self) -> bool:
        """Whether work was given that has not begun; long work looks here from time to time, and makes room."""
        return bool(self._waiting)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; a caller that is cancelled before its turn costs nothing."""
        place = object()

        def begun() -> Result:
            self._waiting.discard(place)
            return work()

        self._waiting.add(place)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, begun)
        finally:
            self._waiting.discard(place)

    def close(self) -> None:
        """End the thread after what it does now."""
        self._executor.shutdown(wait=False, cancel_futures=True)
