"""The extras: the table of modules agrees with pyproject.toml and the code, and whoever lacks one is told so in one sentence."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pangu
from pangu import extras
from pangu.cli import GROUPS
from pangu.errors import UserError
from tests import subtests
from tests.test_architecture import imports

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWNERS = packages_distributions()
DEVELOPERS = {"bench", "dev"}
"""Extras of a checkout, which no code of the package imports from."""


def distributions(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements} - {"pangu"}


def own(extra: str) -> set[str]:
    return distributions(PROJECT["optional-dependencies"][extra])


def owner(module: str) -> str:
    """The distribution of a module; of several that share it, the one that pyproject.toml names."""
    named = {name for extra in PROJECT["optional-dependencies"] for name in own(extra)}
    owners = {canonicalize_name(one) for one in OWNERS[module]}
    return next(iter(owners & (named | distributions(PROJECT["dependencies"])) or owners))


def test_every_module_that_the_package_imports_is_in_the_core_or_in_the_extras_that_the_table_names() -> None:
    core = distributions(PROJECT["dependencies"])
    named = {name.partition(".")[0] for path in (ROOT / "pangu").rglob("*.py") for name in imports(path)}
    outside = named - sys.stdlib_module_names - {"pangu", "yaml", "PIL"}
    assert {"torch", "pyarrow", "ray", "psycopg2"} <= outside
    undeclared = {module for module in outside if module not in extras.MODULES and owner(module) not in core}
    assert undeclared == set()
    assert [module for module in extras.MODULES if owner(module) in core] == []
    told = {
        extra: {owner(m) for m, brought_by in extras.MODULES.items() if extra in brought_by} for extra in pyextras()
    }
    assert {extra: names - own(extra) for extra, names in told.items() if names - own(extra)} == {}
    silent = {"onnxruntime", "zhplot", "standard-imghdr"}  # found without an import, or imported by others
    assert {extra: own(extra) - names - silent for extra, names in told.items() if own(extra) - names - silent} == {}


def pyextras() -> set[str]:
    return set(PROJECT["optional-dependencies"]) - DEVELOPERS


@checks
def extras_that_include_others_and_commands_are_those_that_there_are() -> None:
    for extra, listed in PROJECT["optional-dependencies"].items():
        included = [name for one in map(Requirement, listed) if one.name == "pangu" for name in one.extras]
        assert extra in DEVELOPERS or set(included) == set(extras.INCLUDED.get(extra, ()))
    commands = [command for several in extras.COMMANDS.values() for command in several]
    assert len(commands) == len(set(commands)) and set(commands) < {name for names in GROUPS.values() for name in names}
    assert (
        set(extras.COMMANDS) | set(extras.NAMES.values()) | {e for es in extras.MODULES.values() for e in es}
        <= pyextras()
    )
    assert set(extras.NAMES) < set(pangu.__all__)


BLIND = """
import sys, importlib.util
absent = set(sys.argv.pop(1).split(","))
class Blind:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blind)
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in absent else there(name, package)
"""
"""A Python that has no module of the extras, before anything else is imported."""
COMMAND = "from pangu.cli import main\nsys.argv[0] = 'pangu'\nmain()"


def without(modules: Mapping[str, object], code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLIND + code, ",".join(modules), *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PANGU_HOME": str(cwd), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@checks
def each_command_of_an_extra_says_in_one_sentence_what_to_paste_and_the_core_has_its_help(tmp_path: Path) -> None:
    helped = without(extras.MODULES, COMMAND, "--help", cwd=tmp_path)
    assert helped.returncode == 0 and "ingest" in helped.stdout and helped.stderr == ""
    assert without(extras.MODULES, COMMAND, "--version", cwd=tmp_path).stdout == f"pangu {pangu.__version__}\n"
    assert "card" in without(extras.MODULES, COMMAND, "ingest", "--help", cwd=tmp_path).stdout
    assert "openmoji" not in without(extras.MODULES, COMMAND, "recipes", cwd=tmp_path).stderr
    for extra, command in (("data", "ingest openmoji"), ("train", "evaluate"), ("platform", "up"), ("demo", "demo")):
        told = without(extras.MODULES, COMMAND, *command.split(), cwd=tmp_path)
        assert (told.returncode, told.stdout) == (2, ""), command
        assert re.fullmatch(rf"pangu: `pangu {command.split()[0]}` .*: pip install \"pangu\[{extra}\]\"\n", told.stderr)


NOTEBOOK = """
for name in ("train", "evaluate"):
    try:
        exec(f"from pangu import {name}")
    except ImportError as error:
        print(error)
from pangu import Card, Recipe
import pangu.train
try:
    pangu.train()
except ImportError as error:
    print(error)
"""


@checks
def a_name_of_an_extra_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    told = without(extras.MODULES, NOTEBOOK, cwd=tmp_path)
    assert told.stderr == ""
    lines = told.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["pangu.train", "pangu.evaluate", "pangu.train"]
    assert all(line.endswith('pip install "pangu[train]"') for line in lines)


SERVED = """
from pathlib import Path
from pangu.errors import UserError
from pangu.serve.settings import ServeSettings
from pangu.serve.standalone import serve
for asked in (
    {"loras": {"ink": {"texture": "x"}}},
    {"moderation": {"max_score": 0.5}},
    {"enhance": {"address": "http://h/v1", "model": "m"}},
):
    try:
        serve(Path(), 1, ServeSettings.model_validate(asked), print)
    except UserError as error:
        print(error)
"""


@checks
def a_server_whose_settings_need_an_extra_does_not_begin(tmp_path: Path) -> None:
    told = without(extras.MODULES, SERVED, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    sentence = re.compile(r'^The setting `(\w+)` .*: pip install "pangu\[(\w+)\]"$', re.MULTILINE)
    assert sentence.findall(told.stdout) == [("loras", "adapters"), ("moderation", "data"), ("enhance", "data")]


@checks
def a_command_that_comes_upon_such_a_module_says_the_same_and_any_other_failure_stays_what_it_is() -> None:
    absent = ModuleNotFoundError("No module named 'pyarrow.dataset'", name="pyarrow.dataset")
    with (
        pytest.raises(UserError, match=r'^This command .*: pip install "pangu\[data\]"$'),
        extras.extras_named("This command"),
    ):
        raise absent
    for error in (ModuleNotFoundError("No module named 'torch'", name="torch"), ImportError("x"), ValueError("x")):
        with pytest.raises(type(error)) as caught, extras.extras_named("This command"):
            raise error
        assert caught.value is error


test_extras = pytest.mark.long(checks.test())
