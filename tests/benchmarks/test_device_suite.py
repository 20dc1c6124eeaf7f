"""The driver of the device suite: limits that hold, and a table that never says more than was measured."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import FOLDER

import gpu  # isort: skip (found beside the scripts)
from claims import CLAIMS, GOALS  # isort: skip
from tests import subtests

checks = subtests.Checks()

NAMES = ("train_loop", "train_first_step_s")
DOCUMENT = FOLDER.parent / "docs" / "performance.md"


def part(code: str, *, claims: tuple[str, ...] = NAMES) -> gpu.Part:
    return gpu.Part((sys.executable, "-c", f"import sys; sys.path.append({str(FOLDER)!r})\n{code}"), claims, 60)


def found(code: str, limit_s: float = 30, **named: tuple[str, ...]) -> dict[str, gpu.Row]:
    return {row.name: row for row in gpu.run(part(code, **named), limit_s)}


@checks
def a_line_of_a_script_becomes_a_row_with_its_figure() -> None:
    code = "from claims import *\nprint('{not json')\nclaim('train_loop', 0.9712)\nnot_run('train_first_step_s', 'no room')"
    assert found(code) == {
        "train_loop": gpu.Row("train_loop", "0.971", False),
        "train_first_step_s": gpu.Row("train_first_step_s", "no room", None),
    }


def test_what_is_not_done_in_time_is_ended_with_all_that_it_started_and_was_not_run(tmp_path: Path) -> None:
    still = tmp_path / "still"
    child = f"import time, pathlib; time.sleep(6); pathlib.Path({str(still)!r}).touch()"
    code = (
        "import subprocess, time\nfrom claims import *\nclaim('train_loop', 1.0)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    began = time.monotonic()
    rows = found(code, limit_s=3)
    assert time.monotonic() - began < 20
    assert rows["train_loop"].holds is True
    assert rows["train_first_step_s"] == gpu.Row("train_first_step_s", "not done within 3 s", None)
    time.sleep(max(0.0, 7 - (time.monotonic() - began)))
    assert not still.exists()


@checks
def a_script_that_breaks_fails_the_claims_that_it_owes() -> None:
    rows = found("from claims import *\nclaim('train_loop', 1.0)\nsys.exit(3)")
    assert rows["train_loop"].holds is True
    assert rows["train_first_step_s"] == gpu.Row("train_first_step_s", "exit status 3", False)


@subtests.parametrize(
    ("status", "holds"), [(0, True), (1, False), (5, None)], ids=["all_passed", "one_failed", "none_found"]
)
def test_the_tests_are_one_row_that_says_what_pytest_says(status: int, holds: bool | None) -> None:
    rows = found(f"print('2 passed in 1s'); sys.exit({status})", claims=(gpu.TESTS,))
    assert rows == {gpu.TESTS: gpu.Row(gpu.TESTS, "2 passed in 1s", holds)}


@subtests.parametrize(
    ("holds", "status"), [([True, True], 0), ([True, None], 2), ([None, None], 2), ([None, False], 1)], ids=str
)
def test_the_exit_status_is_that_of_the_worst_row(holds: list[bool | None], status: int) -> None:
    assert gpu.exit_status([gpu.Row(name, "", each) for name, each in zip(NAMES, holds, strict=True)]) == status


def test_without_a_card_every_row_says_not_run_and_so_does_the_exit_status(monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu, "card", lambda: "")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().out.splitlines()[5:]
    assert len(lines) == 1 + len(GOALS)
    assert all(line.endswith("| no CUDA device | not run |") for line in lines)


@checks
def a_module_that_is_missing_is_named_in_one_sentence() -> None:
    bare = [sys.executable, "-S", str(FOLDER / "gpu.py")]  # without anything that was installed
    done = subprocess.run(bare, capture_output=True, text=True, cwd=FOLDER, env={}, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("This Python lacks what computes; pip install torch diffusers")
    assert done.stderr.count("\n") == 1


@checks
def no_part_can_take_longer_than_all_may_and_every_claim_has_a_part() -> None:
    parts = gpu.parts()
    assert max(each.limit_s for each in parts.values()) < 480
    assert sorted(name for each in parts.values() for name in each.claims) == sorted([*GOALS, gpu.TESTS])
    assert parts["throughput"].within(150)[-2:] == ["--seconds", "50"]
    assert {f"{name}.py" for name in CLAIMS} <= {path.name for path in FOLDER.glob("*.py")}


@checks
def the_document_has_the_table_as_the_driver_prints_it() -> None:
    """With the card's name once there was one; until then it says that nothing was run."""
    rows = [row for each in gpu.parts().values() for row in gpu.not_run(each, gpu.NO_CARD)]
    claims = [line.rsplit("|", 3)[0] for line in gpu.table(rows, "").splitlines()[4:]]
    written = DOCUMENT.read_text().splitlines()
    assert [line.rsplit("|", 3)[0] for line in written if any(line.startswith(each) for each in claims)] == claims


test_device_suite = checks.test()
