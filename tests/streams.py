"""`python -m tests.streams [NAME ...]`: streams of tests side by side, each printed as it ends; without a name, all of them.

Most of them wait for servers in turn. Each is a session of its own, since Linux shares the processor between sessions first.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import pytest

STREAMS = {
    "flows": ("tests/browser/test_dashboards.py", "tests/flows"),
    "stack": (
        "tests/stack", "tests/browser", "tests/e2e", "tests/serve/test_served.py", "tests/registry/test_training_runs.py",
    ),
    "servers": ("tests/browser/test_studio.py", "tests/faults", "tests/registry", "tests/serve"),
    "data": ("tests/data",),
    "networks": (
        "tests/diffusion", "tests/exchange", "tests/models", "tests/pipelines", "tests/sampling", "tests/starter",
    ),
    "units": ("tests",),
}  # fmt: skip
"""Each of the first two has a running stack of its own, `servers` starts what it needs; a path inside another stream's is left
out there."""
ROOT = Path(__file__).parents[1]
PAUSE_S = 0.2
LONGEST = "stack"
BEHIND = 5
"""By so much the others are nicer than the longest stream, which waits for much and would end alone."""


def arguments(name: str) -> list[str]:
    """What pytest is told."""
    paths = STREAMS[name]
    others = [path for other in STREAMS if other != name for path in STREAMS[other]]
    return [*paths, *(f"--ignore={other}" for other in others if any(other.startswith(f"{path}/") for path in paths))]


def together(names: list[str]) -> int:
    """0 if every stream passed."""
    begun, failed = time.monotonic(), 0
    with ExitStack() as ended:
        running = {name: start(name, ended.enter_context(tempfile.TemporaryFile())) for name in names}
        try:
            while running:
                for name in [name for name, (process, _) in running.items() if process.poll() is not None]:
                    process, printed = running.pop(name)
                    printed.seek(0)
                    print(printed.read().decode(errors="replace"), end="")
                    print(f"{name}: exit {process.returncode}, {time.monotonic() - begun:.0f} s", flush=True)
                    failed += process.returncode != 0
                time.sleep(PAUSE_S)
        finally:
            for process, _ in running.values():
                os.killpg(process.pid, signal.SIGINT)  # pytest ends what its fixtures started
            for process, _ in running.values():
                process.wait()
    return min(failed, 1)


def start(name: str, printed: IO[bytes]) -> tuple["subprocess.Popen[bytes]", IO[bytes]]:
    command = [sys.executable, "-m", "pytest", *arguments(name)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed, start_new_session=True)
    if name != LONGEST:
        with suppress(OSError):  # no Linux, or one that shares the processor between processes
            Path(f"/proc/{process.pid}/autogroup").write_text(str(BEHIND))
    return process, printed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = sys.argv[1:] or list(STREAMS)
    sys.exit(pytest.main(arguments(chosen[0])) if len(chosen) == 1 else together(chosen))
