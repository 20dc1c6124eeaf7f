"""A clock that jumps: that of Prefect's server, which then runs under libfaketime (Debian: libfaketime).

It orders the states of runs, decides which are due, late or silent, and is alone in that: the clocks of Ray's processes stay,
because their C++ waits for moments of the kernel's clock, which no library can move.
"""

import contextlib
import time
import xmlrpc.client
from configparser import RawConfigParser
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random

import httpx
import psutil

from pangu.stack import Stack
from pangu.stack.supervision import rpc
from pangu.storage import Home
from tests.faults.chaos.faults import Fault, by_program

PROGRAM = "prefect"
PRELOAD = "LD_PRELOAD"
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
START_S = 90.0
SEEN_S = 10.0
"""By then an answer shows the new time; the library looks every second."""
FURTHEST_S = 3600.0


def jump(stack: Stack, rng: Random) -> str | None:
    """The server's clock goes away by a minute to an hour, forth or back, stays there for some seconds, and comes back."""
    if LIBRARY is None:
        return None
    clock = Home(stack.home).stack / "clock"
    clock.write_text("+0\n")
    _put_under_library(stack, LIBRARY, clock)
    _wait_for_offset(stack, 0, START_S)
    offset, seconds = rng.choice((-1, 1)) * round(rng.uniform(60, FURTHEST_S)), rng.uniform(5, 20)
    try:
        clock.write_text(f"{offset:+d}\n")
        _wait_for_offset(stack, offset, SEEN_S)
        time.sleep(seconds)
    finally:
        clock.write_text("+0\n")
    _wait_for_offset(stack, 0, SEEN_S)
    return f"the clock was {offset:+d} s away for {seconds:.0f} s"


CLOCK = Fault("clock of Prefect's server", jump)


def _put_under_library(stack: Stack, library: Path, clock: Path) -> None:
    """Start the server again with the library, if it runs without."""
    for process in by_program(PROGRAM)(stack):
        with contextlib.suppress(psutil.Error):
            if PRELOAD in process.environ():
                return
    path, section = Home(stack.home).stack / "supervisord.conf", f"program:{PROGRAM}"
    configuration = RawConfigParser()
    configuration.read(path)
    variables = {
        PRELOAD: library, "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_CACHE_DURATION": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1, "NO_FAKE_STAT": 1,
    }  # fmt: skip
    added = ",".join(f'{name}="{value}"' for name, value in variables.items())
    configuration[section]["environment"] += f",{added}"
    with path.open("w") as file:
        configuration.write(file, space_around_delimiters=False)
    supervisor = rpc(stack)
    supervisor.reloadConfig()
    with contextlib.suppress(xmlrpc.client.Fault):  # it does not run just now
        supervisor.stopProcess(PROGRAM)
    supervisor.removeProcessGroup(PROGRAM)
    supervisor.addProcessGroup(PROGRAM)


def _wait_for_offset(stack: Stack, offset: int, patience_s: float) -> None:
    """Until the server's own time is that far from ours.

    Raises:
        httpx.HTTPError: it is not, or nobody answers.
    """
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            told = httpx.get(f"{stack.prefect_url}/api/health", timeout=5, trust_env=False).headers["date"]
            away = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
            if abs(away - offset) < 5:
                return
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout(f"Prefect's clock is not {offset:+d} s away")
        time.sleep(0.5)
