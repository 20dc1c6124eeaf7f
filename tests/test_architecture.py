"""The layers of the package: who may import whom, read from the source."""

import ast
import functools
from collections import Counter
from collections.abc import Iterator, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "pangu").rglob("*.py"))
LAYERS = [
    {
        "bounded_cache",
        "callable_package",
        "chat_completions",
        "config",
        "errors",
        "extras",
        "file_lock",
        "garbage",
        "storage",
        "progress",
        "retrying",
        "image_grid",
        "sentences",
        "templates",
        "lettering",
        "names",
        "plugins",
        "forms",
    },
    {"diffusion", "contract", "recipes", "actors"},
    {"sampling"},
    {"models", "data"},
    {"pipelines", "train", "evaluate", "starter"},
    {"registry", "serve", "stack", "jobs", "ray_token", "compatibility", "exchange"},
    {"demo", "retrain", "gate", "monitoring", "planning", "console"},
    {"cli"},
]
"""From the lowest to the highest; a part may import its own layer and lower ones."""
DATA_LAYERS = ["table", "ingest", "encode", "prepare", "propose", "rows", "example"]
"""The folders of `pangu/data`: each may import those before it, and the files that lie beside them import none.

`prepare` comes behind `encode` because blur-aware admission looks at latents."""
ALLOWED_UP = {("config", "diffusion"), ("contract", "diffusion")}


def part_of(path: Path) -> str:
    """`diffusion` for pangu/diffusion/noise.py, `config` for pangu/config/recipe.py."""
    return path.relative_to(ROOT / "pangu").parts[0].removesuffix(".py")


@functools.cache
def nodes(path: Path) -> tuple[ast.stmt | ast.Call, ...]:
    """The imports, classes and calls of a file: all that is asked of it, which is read once."""
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.Call)
    return tuple(node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, also inside functions."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module == "pangu":
                yield from (f"pangu.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[str]:
    """`Image.open` for every call of it."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func)


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_the_package_knows_nothing_of_prefect_or_the_flows() -> None:
    found = [(path, name) for path in SOURCES for name in imports(path) if name.split(".")[0] in ("prefect", "flows")]
    assert found == []


def test_the_equations_know_nothing_of_the_machinery() -> None:
    forbidden = ("ray", "mlflow", "diffusers.pipelines")
    equations = [path for path in SOURCES if part_of(path) in ("diffusion", "sampling")]
    assert equations
    assert [(path, name) for path in equations for name in imports(path) if name.startswith(forbidden)] == []


def test_imports_point_one_way() -> None:
    upwards = []
    for path in SOURCES:
        here = part_of(path)
        if here in ("__init__", "__main__"):
            continue
        imported = {name.split(".")[1] for name in imports(path) if name.startswith("pangu.")}
        above = {part for part in imported if layer(part) > layer(here) and (here, part) not in ALLOWED_UP}
        upwards += [f"{path.relative_to(ROOT)} imports {part}, which lies above it" for part in sorted(above)]
    assert upwards == []


def test_imports_within_the_data_platform_point_one_way() -> None:
    upwards = []
    for path in (ROOT / "pangu/data").rglob("*.py"):
        here = path.relative_to(ROOT / "pangu/data").parts[0]
        lower = DATA_LAYERS[: DATA_LAYERS.index(here) + 1] if here in DATA_LAYERS else []
        folders = {name.split(".")[2] for name in imports(path) if name.startswith("pangu.data.")} & set(DATA_LAYERS)
        upwards += [f"{path.relative_to(ROOT)} imports {part}, which lies above it" for part in folders - set(lower)]
    assert upwards == []


def test_one_module_reads_every_image_that_enters() -> None:
    """Else training, editing and evaluating would see one file as different pictures."""
    opening = ("Image.open", "cv2.imread", "cv2.imdecode")
    found = {path.relative_to(ROOT / "pangu").as_posix() for path in SOURCES for call in calls(path) if call in opening}
    assert found == {
        "data/images.py",
        "data/example/openmoji.py",
    }  # the latter lays what the SVG renderer drew on white


def test_no_file_imports_itself_through_others() -> None:
    """Also by imports inside functions, and for types alone: files that know each other are one file, or lack a third."""
    names = {module_name(path): path for path in SOURCES}
    known = {name: imported_files(path, set(names)) - {name} for name, path in names.items()}
    try:
        order = list(TopologicalSorter(known).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) == set(names)


def module_name(path: Path) -> str:
    """`pangu.diffusion.noise` for pangu/diffusion/noise.py, `pangu.diffusion` for its package's own file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_files(path: Path, names: Set[str]) -> set[str]:
    """Modules of ours that the file names: of `from package import module` the module, not the package."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in names else node.module for whole in inside.values()}
    return found & names


def test_no_two_classes_have_one_name() -> None:
    """One word, one meaning: whoever reads a name must not ask which of two it is."""
    names = Counter(
        node.name for path in SOURCES for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_no_two_files_have_one_name_but_commands_and_stages() -> None:
    """The commands of a part bear its name, and every folder with a stage has it in `stage.py`."""
    shared = {"__init__", "__main__", "stage"}
    names = Counter(path.stem for path in SOURCES if path.parent.name != "cli")
    assert [name for name, times in names.items() if times > 1 and name not in shared] == []
