"""Weights copied to the host at the end of a step, and work on the copies by a thread, while the next step is under way.

On CUDA the copies are made by a stream of their own into page-locked memory. Three parties wait, never the host for the device:
the stream for the step, the thread for the copies (an event), and the device for the copies before the weights change again.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class HostCopies:
    """Copies of `tensors` in the host's memory, with the values that they had at the last `hand_over`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._originals = [tensor.detach() for tensor in tensors]
        on_cuda = any(tensor.device.type == "cuda" for tensor in tensors)
        self.tensors = [
            torch.empty_like(tensor, device="cpu", pin_memory=on_cuda).copy_(tensor) for tensor in self._originals
        ]
        self._stream = torch.cuda.Stream(self._originals[0].device) if on_cuda else None
        self._copied: torch.cuda.Event | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="means")
        self._running: Future[None] | None = None

    def hand_over(self, work: Callable[[], None]) -> None:
        """Copy what the originals are now, and have a thread do `work` as soon as that is done.

        Waits for the work before this one, whose copies are written over; what it raised is raised here.
        """
        self.settle()
        if self._stream is None:
            self._copy()
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                self._copy()
                self._copied = self._stream.record_event()
        copied = self._copied

        def run() -> None:
            if copied is not None:
                copied.synchronize()
            work()

        self._running = self._thread.submit(run)

    def before_change(self) -> None:
        """What the device does from now on, it does after the copies; to be called before the originals change."""
        if self._copied is not None:
            torch.cuda.current_stream(self._copied.device).wait_event(self._copied)

    def settle(self) -> None:
        """Wait for the work that is under way."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _copy(self) -> None:
        for copy, original in zip(self.tensors, self._originals, strict=True):
            copy.copy_(original, non_blocking=True)
