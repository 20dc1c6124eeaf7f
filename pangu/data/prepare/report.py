"""What a selection kept and dropped, as one self-contained HTML page with examples."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jinja2 import Environment

from pangu.data.images import read_rgb
from pangu.data.table.rows_file import RowsFile
from pangu.storage import write_atomically

if TYPE_CHECKING:  # flows show reports, and need no tables for it
    from pangu.data.card import Card

EXAMPLES = 8
SIDE = 128
BINS = 24
FINE_BINS = 100 * BINS
NUMBERS = ("min_timestep", "aspect", "english", "chinese", "text_area", "nsfw", "clip_score", "aesthetic")
TEMPLATE = Path(__file__).with_name("report.html")


class Counts(Protocol):
    """What the page tells of the outcome."""

    @property
    def rows(self) -> int: ...
    @property
    def originals(self) -> int: ...
    @property
    def upscaled(self) -> int: ...
    @property
    def held_out(self) -> int: ...
    @property
    def dropped(self) -> dict[str, int]: ...


class Before(Protocol):
    """What was lost before the selection."""

    @property
    def listed(self) -> int: ...
    @property
    def failed(self) -> dict[str, int]: ...


def write_report(
    page: Path,
    card: "Card",
    outcome: Counts,
    lost: Before,
    kept: Sequence[str],
    dropped: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write the page; it opens without a network.

    kept: the files of the version. dropped: a few rows of each reason, with their images.
    """
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    filled = template.render(
        name=_printable(card.name),
        description=_printable(card.description),
        funnel=_funnel(outcome, lost),
        charts=[chart for name in NUMBERS if (chart := _histogram(name, kept))],
        galleries=[(reason, [_figure(row) for row in rows]) for reason, rows in sorted(dropped.items())],
    )
    write_atomically(page, filled.encode())


def _funnel(outcome: Counts, lost: Before) -> list[dict[str, Any]]:
    """The lines of the table, from all rows listed to those kept."""
    lines: list[dict[str, Any]] = []

    def add(name: str, count: int, left: int | None = None, dropped: bool = False) -> None:
        share = 100 * count / max(lost.listed, 1)
        lines.append({"name": _printable(name), "count": count, "left": left, "share": share, "dropped": dropped})

    add("listed", lost.listed)
    left = lost.listed
    for title, losses in (("not downloaded", lost.failed), ("dropped", outcome.dropped)):
        for reason, count in sorted(losses.items(), key=lambda item: (-item[1], item[0])):
            left -= count
            add(f"{title}: {reason}", count, left, dropped=True)
    add("kept", outcome.rows, outcome.rows)
    for name, count in (
        ("originals", outcome.originals),
        ("upscaled", outcome.upscaled),
        ("held out", outcome.held_out),
    ):
        add(f"of these {name}", count)
    return lines


def _histogram(name: str, files: Sequence[str]) -> dict[str, Any]:
    """Counts of one score in `BINS` bins, and about its median; empty where no row has it."""
    low = min((float(values.min()) for values in _values(name, files)), default=None)
    if low is None:
        return {}
    high = max(float(values.max()) for values in _values(name, files))
    edges = np.histogram_bin_edges(np.asarray([low, high]), FINE_BINS)
    fine = sum((np.histogram(values, edges)[0] for values in _values(name, files)), np.zeros(FINE_BINS, np.int64))
    counts = fine.reshape(BINS, -1).sum(axis=1)
    middle = int(np.searchsorted(np.cumsum(fine), (fine.sum() + 1) // 2))
    title = "min_timestep of upscaled rows" if name == "min_timestep" else name
    numbers = {"low": low, "median": (edges[middle] + edges[middle + 1]) / 2 if high > low else low, "high": high}
    return {"title": title, "counts": counts.tolist(), "most": counts.max(), **numbers}


def _values(name: str, files: Sequence[str]) -> Iterator[np.ndarray]:
    """One score of all rows that have it, some rows at a time."""
    for file in files:
        with RowsFile(file) as source:
            for rows in source.iter_batches(65_536, [name, "upscaled"]):
                chosen = rows.filter(rows["upscaled"]) if name == "min_timestep" else rows
                # float32 has no bins between neighbours
                values = chosen[name].drop_null().to_numpy().astype(np.float64)
                if len(values):
                    yield values


def _figure(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "source": _thumbnail(row["image"]),
        "caption": _printable((row["caption_en"] or row["caption_zh"] or "")[:80]),
        "size": f"{row['original_width']} x {row['original_height']} px",
    }


def _thumbnail(data: bytes) -> str:
    """A small JPEG as a data URI."""
    sink = io.BytesIO()
    small = read_rgb(data, at_least=2 * SIDE)
    small.thumbnail((SIDE, SIDE))
    small.save(sink, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _printable(text: str) -> str:
    """Captions come from strangers; markup in them is escaped by the template."""
    return "".join(character for character in text if character.isprintable())


def markdown(
    dataset: str, dropped: Mapping[str, int], kept: int, page: str, shown: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """The same in short, for a dashboard: a table of what was dropped, and a few rows of each reason as embedded pictures."""
    lines = [
        f"## {dataset}: {kept:,} rows",
        "",
        f"Full report: `{page}`",
        "",
        "| dropped for | rows | examples |",
        "|---|---|---|",
    ]
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        pictures = " ".join(f"![]({_thumbnail(row['image'])})" for row in shown.get(reason, ()))
        lines.append(f"| {reason} | {count:,} | {pictures} |")
    return "\n".join(lines)
