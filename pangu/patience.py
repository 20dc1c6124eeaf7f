"""Waiting for a server that is being restarted.

A person who mistypes an address wants to hear so at once; a flow's commands are told by `PANGU_PATIENCE_S` to wait.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

VARIABLE = "PANGU_PATIENCE_S"
PAUSE_S = 1.0

Answer = TypeVar("Answer")


def patience_s() -> float:
    """Seconds that this process waits for a server; 0 unless the environment says otherwise."""
    text = os.environ.get(VARIABLE, "")
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


def patiently(ask: Callable[[], Answer], failures: tuple[type[Exception], ...], seconds: float | None = None) -> Answer:
    """What `ask` returns; while it raises one of `failures` it is asked again, for so many seconds (None: `patience_s`).

    Raises:
        The last failure, when the time is over; anything else at once.
    """
    deadline = time.monotonic() + (patience_s() if seconds is None else seconds)
    while True:
        try:
            return ask()
        except failures:
            if time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)
