"""The tables of docs/pipelines.md say what the classes have."""

import inspect
import re
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from pangu.pipelines import Cascade, CoopPipeline, PanGuDrawPipeline, SingleStage
from tests import subtests

checks = subtests.Checks()

DOCUMENT = Path(__file__).parents[2] / "docs/pipelines.md"
CLASSES: list[Any] = [PanGuDrawPipeline, SingleStage, Cascade, CoopPipeline]


def rows(title: str) -> list[tuple[list[str], list[str]]]:
    """(names, answers for each class) of each row of the table under a heading."""
    section = DOCUMENT.read_text().split(f"## {title}")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert re.findall(r"`(\w+)`", "".join(cells[0])) == [cls.__name__ for cls in CLASSES]
    return [(re.findall(r"`([\w=()]+)`", row[0]), row[1:]) for row in cells[2:]]


def has(cls: Any, name: str) -> bool:
    if name.endswith("="):
        return name[:-1] in inspect.signature(cls.__call__).parameters
    found = getattr(cls, name.removesuffix("()"), None)
    return callable(found) if name.endswith("()") else isinstance(found, property)


@checks
def the_table_of_conventions_is_that_of_the_code() -> None:
    for names, answers in rows("What is there"):
        for cls, answer in zip(CLASSES, answers, strict=True):
            wrong = [name for name in names if has(cls, name) != (answer == "yes")]
            assert not wrong, (cls.__name__, answer, wrong)


@checks
def every_class_is_a_diffusers_pipeline_and_every_argument_is_named() -> None:
    named = {name for names, _ in rows("What is there") for name in names}
    ours = {"styles", "lora_scales", "image", "conditioning_scale", "extra", "partners", "handoff"}
    for cls in CLASSES:
        assert issubclass(cls, DiffusionPipeline)
        arguments = set(inspect.signature(cls.__call__).parameters) - {"self"} - ours
        assert not {name for name in arguments if f"{name}=" not in named}, cls.__name__


@checks
def the_table_of_tensors_is_that_of_the_code() -> None:
    offered: dict[str, set[str]] = {cls.__name__: set() for cls in CLASSES}
    for names, answers in rows("Callbacks"):
        for cls, answer in zip(CLASSES, answers, strict=True):
            offered[cls.__name__] |= set(names) if answer == "yes" else set()
    assert offered == {cls.__name__: set(cls._callback_tensor_inputs) for cls in CLASSES}


test_documentation = checks.test()
