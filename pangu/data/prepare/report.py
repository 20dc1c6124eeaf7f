"""What a selection kept and dropped, as one self-contained HTML page with examples."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from pangu.data.images import read_rgb
from pangu.data.table.rejects import examples
from pangu.storage import write_atomically

if TYPE_CHECKING:  # flows show reports, and need no tables for it
    from pangu.data.card import Card
    from pangu.data.prepare.pieces import Piece
    from pangu.data.prepare.select import Verdict

EXAMPLES = 8
SIDE = 128
BINS = 24
NUMBERS = ("min_timestep", "aspect", "english", "chinese", "text_area", "nsfw", "clip_score", "aesthetic")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7bd0; --drop: #d0694a }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; border-bottom: 1px solid var(--line);
text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } .bar { background: var(--bar); height: .8rem }
.drop .bar { background: var(--drop) }
figure { display: inline-block; width: 128px; margin: .4rem; vertical-align: top; font-size: 12px; overflow-wrap: anywhere }
figure img { display: block; max-width: 128px; max-height: 128px; background: #fff }
.chart { display: flex; align-items: flex-end; height: 64px; gap: 1px }
.chart i { flex: 1; background: var(--bar); min-height: 1px }
.axis { display: flex; justify-content: space-between; font-size: 12px; opacity: .7 } .charts { display: grid; gap: 1rem 2rem;
grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)) }
"""


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
    pieces: Sequence["Piece"],
    verdicts: Mapping[str, "Verdict"],
    rejected: Path,
) -> None:
    """Write the page; it opens without a network."""
    kept = pa.concat_tables([piece.read(["key", "upscaled", *NUMBERS]) for piece in pieces])
    kept = kept.filter(pa.array([not verdicts[key].reason for key in kept["key"].to_pylist()], pa.bool_()))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_safe(card.name)}</title><style>{STYLE}</style>",
        f"<h1>{_safe(card.name)}</h1><p>{_safe(card.description)}</p>",
        _funnel(outcome, lost),
        "<h2>Scores of the rows that are kept</h2><div class=charts>",
        *(_histogram(name, kept) for name in NUMBERS),
        "</div><h2>Examples of what was dropped</h2>",
        *(_gallery(reason, rows) for reason, rows in sorted(examples(rejected, EXAMPLES).items())),
    ]
    write_atomically(page, "".join(parts).encode())


def _funnel(outcome: Counts, lost: Before) -> str:
    rows = [_line("listed", lost.listed, lost.listed)]
    left = lost.listed
    for title, losses in (("not downloaded", lost.failed), ("dropped", outcome.dropped)):
        for reason, count in sorted(losses.items(), key=lambda item: (-item[1], item[0])):
            left -= count
            rows.append(_line(f"{title}: {reason}", count, lost.listed, left, "drop"))
    rows.append(_line("kept", outcome.rows, lost.listed, outcome.rows))
    parts = (("originals", outcome.originals), ("upscaled", outcome.upscaled), ("held out", outcome.held_out))
    rows += [_line(f"of these {name}", count, lost.listed) for name, count in parts]
    return f"<table><tr><th>rows<th>number<th>left<th>share of the list</tr>{''.join(rows)}</table>"


def _line(name: str, count: int, total: int, left: int | None = None, kind: str = "") -> str:
    share = 100 * count / max(total, 1)
    return (
        f"<tr class='{kind}'><td>{_safe(name)}<td class=n>{count:,}<td class=n>{'' if left is None else f'{left:,}'}"
        f"<td><div class=bar style='width:{share:.2f}%' title='{share:.2f} %'></div></tr>"
    )


def _histogram(name: str, rows: pa.Table) -> str:
    chosen = rows.filter(rows["upscaled"]) if name == "min_timestep" else rows
    values = chosen[name].drop_null().to_numpy()
    if not len(values):
        return ""
    counts, edges = np.histogram(values, BINS)
    bars = "".join(f"<i style='height:{100 * count / counts.max():.1f}%' title='{count}'></i>" for count in counts)
    axis = f"<span>{edges[0]:.3g}</span><span>median {np.median(values):.3g}</span><span>{edges[-1]:.3g}</span>"
    title = "min_timestep of upscaled rows" if name == "min_timestep" else name
    return f"<div><b>{title}</b><div class=chart>{bars}</div><div class=axis>{axis}</div></div>"


def _gallery(reason: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return f"<h3>{_safe(reason)}</h3>" + "".join(_figure(row) for row in rows)


def _figure(row: Mapping[str, Any]) -> str:
    size = f"{row['original_width']} x {row['original_height']} px"
    caption = (row["caption_en"] or row["caption_zh"] or "")[:80]
    return f"<figure><img alt='' src='{_thumbnail(row['image'])}'>{_safe(caption)}<br>{size}</figure>"


def _thumbnail(data: bytes) -> str:
    """A small JPEG as a data URI."""
    sink = io.BytesIO()
    small = read_rgb(data, at_least=2 * SIDE)
    small.thumbnail((SIDE, SIDE))
    small.save(sink, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _safe(text: str) -> str:
    """Captions come from strangers."""
    return html.escape("".join(character for character in text if character.isprintable()))


def markdown(dataset: str, dropped: Mapping[str, int], kept: int, page: str, rejected: Path) -> str:
    """The same in short, for a dashboard: a table of what was dropped, and a few examples as embedded pictures."""
    lines = [
        f"## {dataset}: {kept:,} rows",
        "",
        f"Full report: `{page}`",
        "",
        "| dropped for | rows | examples |",
        "|---|---|---|",
    ]
    shown = examples(rejected, 4)
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        pictures = " ".join(f"![]({_thumbnail(row['image'])})" for row in shown.get(reason, ()))
        lines.append(f"| {reason} | {count:,} | {pictures} |")
    return "\n".join(lines)
