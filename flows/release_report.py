"""What the dashboard shows of a pair: samples beside the champion's, and where release, jobs and the served API are found."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from prefect.artifacts import create_markdown_artifact

from flows.reporting import best_effort
from flows.training_report import LONGEST_SIDE, data_uri
from pangu.image_grid import GridFacts, grid_facts, whole_columns
from pangu.registry.tracking import PAIR, STRUCTURE, TEXTURE

HEIGHT = 330
"""px of a strip: three rows of small drawings as they are, larger ones made smaller."""


@best_effort
def show_samples(evaluated: Mapping[str, Any], decided: Mapping[str, Any]) -> None:
    """The new pair above the champion, on the same prompts, true images in the last row of each."""
    create_markdown_artifact(samples(evaluated, decided), key="samples-new-and-old")


@best_effort
def show_links(outcomes: Mapping[str, Mapping[str, Any]]) -> None:
    """Where to look at what was released, at its jobs, and at what is served now."""
    create_markdown_artifact(links(outcomes, os.environ), key="links")


def samples(evaluated: Mapping[str, Any], decided: Mapping[str, Any]) -> str:
    """The samples as markdown; of the champion, or of the start of a first pair's training, only where it has drawn them."""
    parts = [f"## {evaluated['pair_id']}, the new pair\n\n{_strip('new', Path(evaluated['sample_grid']))}"]
    version, grid = decided.get("champion_version"), decided.get("champion_grid")
    if grid and Path(grid).is_file():
        of = f"The champion, version {version}" if version is not None else "What its training started from"
        parts.append(f"## {of}\n\n{_strip('old', Path(grid))}")
    elif decided.get("already_done"):
        parts.append(f"It is version {version}, the champion itself.")
    return "\n\n".join(parts) + "\n"


def links(outcomes: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str]) -> str:
    """A markdown list. Addresses are those by which this run reaches the servers."""
    mlflow, ray = environment.get("MLFLOW_TRACKING_URI", ""), environment.get("RAY_API_SERVER_ADDRESS", "")
    released, served = outcomes.get("release"), outcomes.get("deploy")
    lines = []
    if released and mlflow.startswith("http"):
        versions = {PAIR: "pair_version", STRUCTURE: "structure_version", TEXTURE: "texture_version"}
        lines += [
            f"- MLflow: [{model}, version {released[field]}]({mlflow}/#/models/{model}/versions/{released[field]})"
            for model, field in versions.items()
        ]
    if ray:
        lines.append(f"- Ray: [jobs]({ray}/#/jobs), [served replicas]({ray}/#/serve)")
    if served:
        lines.append(
            f"- Served: version {served['pair_version']}, [API]({served['url']}/v1/models), [studio]({served['url']}/studio)"
        )
    return "## Where to look\n\n" + "\n".join(lines) + "\n"


def _strip(name: str, path: Path) -> str:
    """The first columns of a grid as markdown, whole, small enough for a database; below it what its rows and columns show."""
    with Image.open(path) as image:
        image.load()
        facts = grid_facts(image)
        scale = min(1.0, HEIGHT / image.height)
        picture, columns = whole_columns(image, int(LONGEST_SIDE / scale))
    picture = picture.convert("RGB")
    width = max(1, min(LONGEST_SIDE, round(picture.width * scale)))
    picture = picture.resize((width, max(1, round(picture.height * scale))))
    if facts is None:
        picture = picture.crop((0, 0, min(picture.width, LONGEST_SIDE), picture.height))
    sink = io.BytesIO()
    picture.save(sink, "PNG", optimize=True)
    shown = f"![{name}]({data_uri(sink.getvalue())})"
    return shown if facts is None else f"{shown}\n\n{_caption(facts, columns)}"


def _caption(facts: GridFacts, columns: int) -> str:
    rows = f"Rows: {', '.join(facts.rows)}. " if facts.rows else ""
    captions = [text.replace("|", " ").strip() or "-" for text in facts.captions[:columns]]
    more = f" (the first {columns} of {len(facts.captions)})" if columns < len(facts.captions) else ""
    return rows + (f"Columns{more}: {'; '.join(captions)}." if captions else "")
