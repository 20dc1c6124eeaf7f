"""Runs a command that may hang, in its own process group, with a deadline and a stall limit."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

Ending = Literal["exited", "finished", "stalled", "deadline"]
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0


def supervise(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    state: Callable[[], tuple[Hashable, bool]],
    stall_seconds: float,
    deadline: float,
    pass_fds: Sequence[int] = (),
) -> Ending:
    """Run `command` until it exits, or end its whole process group.

    Args:
        state: Returns something that changes whenever the command made progress, and whether its work is complete: a
            command that hangs after its work is done is ended as "finished".
        deadline: On the clock of `time.monotonic`, s.
        pass_fds: Open files that the command keeps open, such as a lock.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=dict(environment), start_new_session=True, pass_fds=pass_fds
        )
    last_state, last_change = None, time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            (current, complete), now = state(), time.monotonic()
            if current != last_state:
                last_state, last_change = current, now
            if complete and now - last_change > GRACE_SECONDS:
                return "finished"
            if now - last_change > stall_seconds:
                return "stalled"
            if now > deadline:
                return "deadline"
        return "exited"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
