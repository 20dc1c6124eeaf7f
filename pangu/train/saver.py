"""Writing checkpoints in turn, or beside the training that goes on."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pangu.train.checkpoint import Snapshot

log = logging.getLogger(__name__)


class Saver:
    """Has `write` called with one snapshot after the other, never two at once; all of them are written when it is closed.

    in_background: by a thread, from copies in the host's memory. What a write raises comes out of the next call, or at the end.
    """

    def __init__(self, write: Callable[[Snapshot], None], in_background: bool) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background else None
        self._running: Future[None] | None = None
        self._copies: dict[str, dict[str, Tensor]] = {}

    def __call__(self, taken: Snapshot) -> None:
        """Have it written, once the one before is. In the background it returns as soon as the copies are under way."""
        self.settle()
        if self._thread is None:
            self._write(taken)
            return
        copied = replace(taken, tensors=self._copied(taken))
        event = torch.cuda.Event() if torch.cuda.is_available() else None
        if event is not None:
            event.record()

        def write() -> None:
            if event is not None:
                event.synchronize()
            self._write(copied)

        self._running = self._thread.submit(write)

    def settle(self) -> None:
        """Wait until nothing is being written."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.settle()
        except Exception:
            if kind is None:
                raise
            log.exception("The last checkpoint was not written.")
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _copied(self, taken: Snapshot) -> dict[str, dict[str, Tensor]]:
        """The tensors in memory that is kept from one checkpoint to the next.

        Copies from a GPU are put in line behind the step that has been taken and before the next one: the host waits for none.
        """
        for file, tensors in taken.tensors.items():
            copies = self._copies.setdefault(file, {})
            for name, tensor in tensors.items():
                if name not in copies:
                    pinned = tensor.device.type == "cuda"
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
                copies[name].copy_(tensor.detach(), non_blocking=True)
        return self._copies
