"""The test files that a change touches: `python -m tests.touched [BASE]` prints them, `make touched` runs them.

A test file is touched if it changed itself, or if it imports a module that changed, directly or by way of `DEPTH` modules of
this repository; a `conftest.py` counts for its whole folder. What only servers reach (forms, pages, manifests) is not seen: the
folders in `BY_FOLDER` are added where a file below their key changed.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEPTH = 1
"""Modules between a test and what changed. At 2 a change of `pangu/config` runs nearly everything."""
BY_FOLDER = {
    "flows": ("tests/flows", "tests/forms"),
    "infra": ("tests/infra",),
    "pangu/cli": ("tests/cli",),
    "pangu/serve/static": ("tests/serve/api/test_pages.py", "tests/browser"),
}


def changed(base: str) -> set[str]:
    """Paths from the repository's root that differ from where this branch left `base`, new files included."""

    def lines(*command: str) -> list[str]:
        return subprocess.run(
            ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()

    fork = lines("merge-base", base, "HEAD")
    return {*lines("diff", "--name-only", *fork), *lines("ls-files", "--others", "--exclude-standard")}


def path_of(module: str) -> str | None:
    """The file of a dotted module of this repository, None for anything else."""
    place = module.replace(".", "/")
    return next((name for name in (f"{place}.py", f"{place}/__init__.py") if (ROOT / name).is_file()), None)


@cache
def imported(file: str) -> frozenset[str]:
    """Files of this repository that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return frozenset(path for path in map(path_of, names) if path is not None)


def reaches(file: str, targets: set[str], depth: int) -> bool:
    """Whether `file` is a target, or imports one by way of at most `depth` files."""
    if file in targets:
        return True
    return depth >= 0 and any(reaches(other, targets, depth - 1) for other in imported(file))


def touched(changes: Iterable[str], by_folder: Mapping[str, tuple[str, ...]] = BY_FOLDER) -> list[str]:
    """Test files and folders for pytest, sorted."""
    targets = {path for path in changes if (ROOT / path).exists()}
    modules = {path for path in targets if path.endswith(".py")}
    shared = tuple(f"{Path(path).parent}/" for path in modules if path.endswith("conftest.py"))
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    found = {test for test in tests if test.startswith(shared) or reaches(test, modules, DEPTH)}
    for folder, more in by_folder.items():
        if any(path.startswith(f"{folder}/") for path in targets):
            found.update(more)
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(touched(changed(sys.argv[1] if len(sys.argv) > 1 else "main"))))
