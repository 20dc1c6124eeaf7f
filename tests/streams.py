"""`python -m tests.streams [NAME ...]`: streams of tests side by side, each printed as it ends; without a name, all of them.

Most of them wait for servers in turn. Each is a fork of one process that has imported what they all import, and a session of its
own, since Linux shares the processor between sessions first.
"""

import tests.environment  # noqa: F401, I001  first, for what it says of imports

import gc
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

import pytest

STREAMS = {
    "flows": ("tests/browser/test_dashboards.py", "tests/flows"),
    "stack": (
        "tests/stack", "tests/browser", "tests/e2e", "tests/serve/test_served.py", "tests/registry/test_training_runs.py",
    ),
    "servers": ("tests/browser/test_studio.py", "tests/faults", "tests/registry", "tests/serve"),
    "data": ("tests/data", "tests/exchange"),
    "networks": ("tests/diffusion", "tests/models", "tests/pipelines", "tests/sampling", "tests/starter"),
    "units": ("tests",),
}  # fmt: skip
"""Each of the first two has a running stack of its own, `servers` starts what it needs; a path inside another stream's is left
out there."""
ROOT = Path(__file__).parents[1]
IMPORTED = (
    "hypothesis", "pandas", "boto3", "pangu.cli", "pangu.data.prepare.stage", "pangu.evaluate", "pangu.pipelines.pangu_draw",
    "pangu.train.loop", "transformers.models.clip.modeling_clip",
)  # fmt: skip
"""What most streams import, and what begins no thread by that, which no fork would have."""
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
    import_what_is_shared()
    with ExitStack() as ended:
        printed = {name: ended.enter_context(tempfile.TemporaryFile()) for name in names}
        running = {fork(name, printed[name]): name for name in names}
        try:
            while running:
                for pid, name in list(running.items()):
                    ended_pid, status = os.waitpid(pid, os.WNOHANG)
                    if not ended_pid:
                        continue
                    del running[pid]
                    printed[name].seek(0)
                    print(printed[name].read().decode(errors="replace"), end="")
                    code = os.waitstatus_to_exitcode(status)
                    print(f"{name}: exit {code}, {time.monotonic() - begun:.0f} s", flush=True)
                    failed += code != 0
                time.sleep(PAUSE_S)
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGINT)  # pytest ends what its fixtures started
            for pid in running:
                os.waitpid(pid, 0)
    return min(failed, 1)


def import_what_is_shared() -> None:
    """Where a fork may go on with it: elsewhere each stream imports for itself."""
    if sys.platform != "linux":
        return
    with unseen_warnings():
        for name in IMPORTED:
            importlib.import_module(name)
    gc.freeze()


@contextmanager
def unseen_warnings() -> Iterator[None]:
    """As while pytest imports: what libraries say of what they lack is not read. The file descriptor is another one, since a
    library's log keeps `sys.stderr`."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def fork(name: str, printed: IO[bytes]) -> int:
    """The process id of the stream."""
    sys.stdout.flush()
    return os.fork() or be(name, printed)


def be(name: str, printed: IO[bytes]) -> NoReturn:
    """A stream, in a process of its own."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in (1, 2):
        os.dup2(printed.fileno(), descriptor)
    os.chdir(ROOT)
    if name != LONGEST:
        with suppress(OSError):  # no Linux, or one that shares the processor between processes
            Path(f"/proc/{os.getpid()}/autogroup").write_text(str(BEHIND))
    # Two of pytest's plugins are imported already; nobody's assertions are rewritten in them.
    sys.exit(pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments(name)]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = sys.argv[1:] or list(STREAMS)
    sys.exit(pytest.main(arguments(chosen[0])) if len(chosen) == 1 else together(chosen))
