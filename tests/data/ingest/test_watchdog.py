"""The watchdog ends whole process groups: what stalls, what is late, and what hangs after its work is done."""

import os
import time
from pathlib import Path

import pytest

from pangu.data.ingest import watchdog
from pangu.data.ingest.watchdog import supervise
from tests import subtests


def run(folder: Path, script: str, **options: object) -> str:
    settings = {"stall_seconds": 30.0, "deadline": time.monotonic() + 30, "state": lambda: (0, False)} | options
    return supervise(["bash", "-c", script], log=folder / "log", environment=os.environ, **settings)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_exits_is_let_go_and_its_output_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "echo out; echo err >&2") == "exited"
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def dies_soon(pid: int) -> bool:
    """Grandchildren were killed, but it is not ours to wait for them."""
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


@subtests.parametrize(("options", "ending"), [({"stall_seconds": 0.5}, "stalled"), ({"deadline": 0.0}, "deadline")])
def test_a_command_that_hangs_dies_with_its_children(tmp_path: Path, options: dict, ending: str) -> None:
    pid_file = tmp_path / "pid"
    assert run(tmp_path, f"sleep 600 & echo $! > {pid_file}; wait", **options) == ending
    if pid_file.exists() and pid_file.read_text():
        assert dies_soon(int(pid_file.read_text()))
    else:
        assert ending == "deadline"  # ended before it wrote anything


def test_progress_keeps_a_slow_command_alive(tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    script = f"for i in 1 2 3 4 5 6; do sleep 0.3; echo x >> {growing}; done"
    size = lambda: (growing.stat().st_size if growing.exists() else 0, False)  # noqa: E731
    assert run(tmp_path, script, stall_seconds=1.2, state=size) == "exited"


def test_a_command_that_hangs_after_its_work_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.3)
    assert run(tmp_path, "sleep 600", state=lambda: (1, True)) == "finished"
