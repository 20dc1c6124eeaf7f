"""What the dashboard shows of a training: loss curves, loss by timestep, speed, where the time goes, the newest samples.

One markdown artifact per role with its pictures inside, so that the browser asks nobody else for them.
"""

import base64
import io
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger

from pangu.progress import Progress
from pangu.storage import Home, read_json
from pangu.train.curves import curves_of, draw_curves
from pangu.train.history import HISTORY_FILE, SAMPLES_FOLDER, Line, read_history

SECONDS_BETWEEN_UPDATES = 60.0
RECENT = 5
"""Log lines that a figure of the tables is the mean of."""
LONGEST_SIDE = 840
LOWEST = re.compile(r"/t(\d+)-")


class TrainingReport:
    """The report of one training stage, written at most once a minute: SQLite serves everyone else too.

    A report that fails costs the report, not the training.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None
        self._updated_at = time.monotonic()
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if time.monotonic() - self._updated_at >= SECONDS_BETWEEN_UPDATES:
            self._write()

    def finish(self) -> None:
        """The last state; nothing for a stage that had nothing to do."""
        if self._last is not None:
            self._write()

    def _write(self) -> None:
        assert self._last is not None
        self._updated_at = time.monotonic()
        try:
            lines = history_of(self._last)
            if lines:
                self._publish(markdown(self._stage, self._last, lines))
        except Exception as error:
            get_run_logger().warning("The report of %s was not written: %s", self._stage, error)

    def _publish(self, text: str) -> None:
        if self._artifact is None:
            self._artifact = create_markdown_artifact(text, key=f"{self._stage}-report", description=self._stage)
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._artifact, ArtifactUpdate(data=text))


def history_of(progress: Progress) -> list[Line]:
    """All log lines of the run that the progress tells of, also those before it was resumed."""
    name = progress.facts.get("run")
    return read_history(Home.from_environment().run(str(name)) / HISTORY_FILE) if name else []


def newest_sample(progress: Progress) -> Path | None:
    """The newest sample grid of the run; that of the last step is drawn after the last progress was told."""
    folder = Home.from_environment().run(str(progress.facts.get("run", ""))) / SAMPLES_FOLDER
    return max(folder.glob("step-*.png"), key=lambda path: (len(path.name), path.name), default=None)


def markdown(stage: str, progress: Progress, lines: Sequence[Line]) -> str:
    """The report as markdown with embedded pictures."""
    recent = lines[-RECENT:]
    picture = draw_curves(curves_of(lines), f"{stage}: loss over steps", progress.total)
    parts = [
        f"## {stage}: {lines[-1].step} of {progress.total} steps",
        f"![loss curve]({data_uri(picture)})",
        table("timesteps", "loss", by_timestep(means(recent, "loss/"))),
        table("figure", "now", {n: v for n, v in means(recent).items() if "/" not in n}),
        table("part of a step", "share of the time", means(recent, "time/")),
    ]
    if link := progress.facts.get("mlflow"):
        parts.append(f"[The run in MLflow]({link})")
    sample = newest_sample(progress)
    if sample is not None:
        shown = f"### Samples, {sample.stem}\n\n![samples]({data_uri(small(sample))})"
        parts.insert(2, "\n\n".join(filter(None, (shown, captions_of(sample)))))
    return "\n\n".join(parts) + "\n"


def captions_of(sample: Path) -> str:
    """What the pictures of a grid were asked for, in their order, as `pangu.train.grids` left it beside them."""
    try:
        found = read_json(sample.with_name("captions.json"))
        texts = [str(one["caption"] or "-").replace("|", " ") for one in found]
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    return f"From left to right, line by line: {'; '.join(texts)}."


def means(lines: Sequence[Line], prefix: str = "") -> dict[str, float]:
    """Mean of each metric whose name begins with `prefix`, over the lines that have it."""
    names = dict.fromkeys(name for line in lines for name in line.metrics if name.startswith(prefix))
    values = {name: [line.metrics[name] for line in lines if name in line.metrics] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


def by_timestep(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses by their timesteps (`loss/t500-624`), lowest first; others behind them."""
    names = sorted(losses, key=lambda name: (int(found[1]) if (found := LOWEST.search(name)) else math.inf, name))
    return {name.removeprefix("loss/"): losses[name] for name in names}


def table(left: str, right: str, rows: Mapping[str, Any]) -> str:
    """A markdown table of two columns."""
    body = "\n".join(f"| {name.removeprefix('time/')} | {value:.4g} |" for name, value in rows.items())
    return f"| {left} | {right} |\n|---|---|\n{body}"


def small(path: Path) -> bytes:
    """The picture as PNG, its longer side at most `LONGEST_SIDE` px: artifacts live in a database."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    sink = io.BytesIO()
    picture.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
