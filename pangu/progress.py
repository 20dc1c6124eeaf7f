"""Progress of long stages: functions report it, the CLI prints it, flows read it back. Knows nothing of either."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

PREFIX = "PANGU_PROGRESS "


class Progress(BaseModel):
    """`done` of `total` units of a stage, with a few facts worth showing (loss, images/s)."""

    stage: str
    done: int
    total: int
    unit: str
    facts: dict[str, Any] = {}


Reporter = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The reporter that says nothing."""


def print_progress(progress: Progress) -> None:
    """One machine-readable line on standard output, so that whoever started the process can follow it."""
    print(PREFIX + progress.model_dump_json(), flush=True)


def parse_progress(line: str) -> Progress | None:
    """The progress that `line` carries, or None if it is any other line."""
    at = line.find(PREFIX)
    if at < 0:
        return None
    try:
        return Progress.model_validate(json.loads(line[at + len(PREFIX) :]))
    except ValueError:
        return None
