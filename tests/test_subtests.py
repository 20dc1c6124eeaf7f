"""Cases of one test: all run, each in a place of its own, and one that fails fails the test under its name."""

import os
import subprocess
import sys
from pathlib import Path

CASES = """
import os
import pytest
from tests import subtests

@subtests.parametrize(("left", "right"), [(1, 1), pytest.param(1, 2, id="unequal"), (3, 3), (4, 5)])
@subtests.parametrize("scale", [1, 10])
def test_case(tmp_path, monkeypatch, left, right, scale):
    assert not list(tmp_path.iterdir()) and "MARK" not in os.environ
    (tmp_path / "file").touch()
    monkeypatch.setenv("MARK", "1")
    with open(os.environ["RAN"], "a") as ran:
        print(left, right, scale, file=ran)
    assert left * scale == right * scale

checks = subtests.Checks()

@checks
def fails(tmp_path):
    (tmp_path / "file").touch()
    assert False

@checks
def has_a_place_of_its_own(tmp_path):
    assert not list(tmp_path.iterdir())
    with open(os.environ["RAN"], "a") as ran:
        print("last check", file=ran)

test_checks = checks.test()
"""


def test_every_case_runs_and_those_that_fail_are_named(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    ran = tmp_path / "ran"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RAN": str(ran)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "test_cases.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    cases = [(1, 1), (1, 2), (3, 3), (4, 5)]
    expected = [f"{a} {b} {scale}" for a, b in cases for scale in (1, 10)] + ["last check"]
    assert sorted(ran.read_text().splitlines()) == sorted(expected)
    assert done.returncode == 1
    for name in ("[1-unequal]", "[10-unequal]", "[1-4-5]", "[10-4-5]"):
        assert name in done.stdout
    assert "[fails]" in done.stdout and "[has_a_place_of_its_own]" not in done.stdout
    assert "contains 4 failed subtests" in done.stdout and "[1-1-1]" not in done.stdout
