"""The metrics of a run as lines of JSON in its folder: what MLflow and the dashboard are given, and may have missed.

A line is written once per step: a resumed run repeats steps, but not their lines.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

HISTORY_FILE = "metrics.jsonl"
SAMPLES_FOLDER = "samples"
"""Where a run folder keeps sample grids."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """What was measured up to `step`, at `time_ms` milliseconds since 1970."""

    step: int
    time_ms: int
    metrics: dict[str, float]


class History:
    """Appends to the history of one run; only rank 0 does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_history(path)
        self.last_step = lines[-1].step if lines else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._complained = False

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line, unless the history has that step already; a disk that takes none costs the line, not the run."""
        if step <= self.last_step:
            return
        text = json.dumps({"step": step, "time_ms": int(time.time() * 1000), "metrics": metrics}) + "\n"
        try:
            with self.path.open("a") as file:
                file.write("\n" + text if self._torn else text)
        except OSError as error:
            self._torn = True
            if not self._complained:
                log.warning("The metrics of step %d could not be written to %s: %s", step, self.path, error)
            self._complained = True
            return
        self._torn = False
        self.last_step = step


def read_history(path: Path, after_step: int = 0) -> list[Line]:
    """Every whole line behind `after_step`, in order; none where there is no file. Torn lines are passed over."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines: list[Line] = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
            found = Line(int(values["step"]), int(values["time_ms"]), dict(values["metrics"]))
        except (ValueError, KeyError, TypeError):
            continue
        if found.step > max(after_step, lines[-1].step if lines else 0):
            lines.append(found)
    return lines
