"""Waiting for a server that is being restarted.

A person who mistypes an address wants to hear so at once; a flow's commands are told by `PANGU_PATIENCE_S` to wait.
"""

import os
from collections.abc import Callable
from typing import TypeVar

VARIABLE = "PANGU_PATIENCE_S"
PAUSE_S = 1.0

Answer = TypeVar("Answer")


def patience_s() -> float:
    """Seconds that this process waits for a server; 0 unless the environment says otherwise."""
    text = os.environ.get(VARIABLE, "")
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


def retrying(ask: Callable[[], Answer], failures: tuple[type[Exception], ...], seconds: float | None = None) -> Answer:
    """What `ask` returns; while it raises one of `failures` it is asked again, for so many seconds (None: `patience_s`).

    Raises:
        The last failure, when the time is over; anything else at once.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed  # not of the core

    attempts = Retrying(
        retry=retry_if_exception_type(failures),
        stop=stop_after_delay(patience_s() if seconds is None else seconds),
        wait=wait_fixed(PAUSE_S),
        reraise=True,
    )
    return attempts(ask)
