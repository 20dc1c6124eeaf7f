"""Progress of long stages: functions report it, commands show it on standard error, flows read it back.

Standard output belongs to the outcome of a command alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

PREFIX = "PANGU_PROGRESS "
FORMAT = "PANGU_PROGRESS"
"""Environment variable; `json` asks for machine-readable lines, as whoever runs a command for somebody else does."""
SECONDS_BETWEEN_SENTENCES = 5.0


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


def for_machines() -> bool:
    """Whether progress is asked for as machine-readable lines."""
    return os.environ.get(FORMAT) == "json"


class Display:
    """Progress on standard error: machine-readable lines where they are asked for, bars on a terminal, sentences elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._said_at: dict[str, float] = {}
        self.shown_at = 0.0
        """When something was shown last, s of the monotonic clock."""

    def __call__(self, progress: Progress) -> None:
        self.shown_at = time.monotonic()
        if for_machines():
            print(PREFIX + progress.model_dump_json(), file=sys.stderr, flush=True)
        elif sys.stderr.isatty():
            self._draw(progress)
        else:
            self._say(progress)

    def _draw(self, progress: Progress) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != f"{progress.stage}: ":
            self.close()
            self._bar = tqdm(desc=progress.stage, total=progress.total, unit=f" {progress.unit}", file=sys.stderr)
        self._bar.total, self._bar.n = progress.total, progress.done
        self._bar.set_postfix_str(_facts(progress), refresh=False)
        self._bar.refresh()
        if progress.done >= progress.total:
            self.close()

    def _say(self, progress: Progress) -> None:
        """The first, the last, and one every few seconds between them."""
        now, last = time.monotonic(), self._said_at.get(progress.stage)
        if last is None or progress.done >= progress.total or now - last >= SECONDS_BETWEEN_SENTENCES:
            self._said_at[progress.stage] = now
            facts = _facts(progress)
            counted = f"{progress.stage}: {progress.done} of {progress.total} {progress.unit}"
            print(f"{counted}, {facts}" if facts else counted, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line beside the bar."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the last bar as it stands."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


print_progress = Display()
"""The reporter of commands."""


def parse_progress(line: str) -> Progress | None:
    """The progress that `line` carries, or None if it is any other line."""
    at = line.find(PREFIX)
    if at < 0:
        return None
    try:
        return Progress.model_validate(json.loads(line[at + len(PREFIX) :]))
    except ValueError:
        return None


def _facts(progress: Progress) -> str:
    """The numbers among the facts, short; those of parts, such as `time/data`, are left to the dashboards."""
    numbers = {name: value for name, value in progress.facts.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if "/" not in name)
