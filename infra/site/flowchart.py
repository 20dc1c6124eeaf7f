"""A flowchart of Mermaid as a picture that needs no script: boxes in columns by their distance from the start.

Reads `flowchart LR`, nodes `name[text]`, `name[(text)]` and `name`, and arrows `-->`; anything else is refused.
"""

import html
import re
from dataclasses import dataclass, field

NODE = r"(\w+)(?:\[\(?(.*?)\)?\])?"
ARROW = re.compile(rf"^\s*{NODE}\s*-->\s*{NODE}\s*$")
WIDTH, LINE, PAD, GAP_X, GAP_Y, COLUMNS, LEFT = 184, 17, 12, 36, 26, 4, 24
"""Pixels; LEFT is where arrows from the row above come in."""


@dataclass
class Chart:
    """What is drawn: text of each node, and arrows."""

    labels: dict[str, str] = field(default_factory=dict)
    arrows: list[tuple[str, str]] = field(default_factory=list)


def read(text: str) -> Chart:
    """Parse the chart.

    Raises:
        ValueError: a line that is none of those above.
    """
    first, *lines = text.strip().splitlines()
    if first.split() != ["flowchart", "LR"]:
        raise ValueError(f"a diagram of another kind than 'flowchart LR': {first}")
    chart = Chart()
    for line in lines:
        found = ARROW.match(line)
        if not found:
            raise ValueError(f"no arrow between two nodes: {line.strip()}")
        start, start_text, end, end_text = found.groups()
        for name, label in ((start, start_text), (end, end_text)):
            if label or name not in chart.labels:
                chart.labels[name] = label or name
        chart.arrows.append((start, end))
    return chart


def ranks(chart: Chart) -> dict[str, int]:
    """Node -> the longest way to it from a start."""
    rank = dict.fromkeys(chart.labels, 0)
    for _ in chart.labels:
        for start, end in chart.arrows:
            rank[end] = max(rank[end], rank[start] + 1)
    if any(rank[end] <= rank[start] for start, end in chart.arrows):
        raise ValueError("a circle of arrows")
    return rank


def draw(text: str) -> str:
    """The chart as an SVG element in the colours of the page."""
    chart = read(text)
    rank = ranks(chart)
    columns: dict[int, list[str]] = {}
    for name in chart.labels:
        columns.setdefault(rank[name], []).append(name)
    heights = {name: 2 * PAD + LINE * len(_lines(label)) for name, label in chart.labels.items()}
    column_height = {place: sum(heights[name] + GAP_Y for name in names) - GAP_Y for place, names in columns.items()}
    boxes: dict[str, tuple[float, float]] = {}
    above: dict[str, float] = {}
    top = 4.0
    for first in range(0, len(columns), COLUMNS):
        row = range(first, min(first + COLUMNS, len(columns)))
        tall = max(column_height[place] for place in row)
        for place in row:
            y = top + (tall - column_height[place]) / 2
            for name in columns[place]:
                boxes[name] = (LEFT + (place - first) * (WIDTH + GAP_X), y)
                above[name] = top - GAP_Y
                y += heights[name] + GAP_Y
        top += tall + 2 * GAP_Y
    width, height = COLUMNS * (WIDTH + GAP_X) - GAP_X + LEFT + 4, top - 2 * GAP_Y + 4
    arrows = "".join(_arrow(boxes[a], heights[a], boxes[b], heights[b], above[b]) for a, b in chart.arrows)
    drawn = "".join(_box(label, boxes[name], heights[name]) for name, label in chart.labels.items())
    said = html.escape("; ".join(f"{start} leads to {end}" for start, end in chart.arrows))
    head = '<marker id="pangu-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip = f'<defs>{head}<path d="M0 0 8 4 0 8z"/></marker></defs>'
    return (
        f'<div class="pangu-chart"><svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{said}">{tip}{arrows}{drawn}'
        "</svg></div>"
    )


def _lines(label: str) -> list[str]:
    return re.split(r"<br\s*/?>", label)


def _box(label: str, corner: tuple[float, float], height: float) -> str:
    x, y = corner
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{height:g}" rx="8"/>']
    noted = False
    for number, line in enumerate(_lines(label)):
        noted = noted or "<i>" in line
        plain = html.escape(html.unescape(re.sub(r"</?i>", "", line)))
        style = ' class="pangu-chart-note"' if noted else ""
        middle = x + WIDTH / 2
        parts.append(f'<text x="{middle:g}" y="{y + PAD + LINE * (number + 0.75):g}"{style}>{plain}</text>')
        noted = noted and "</i>" not in line
    return "".join(parts)


def _arrow(
    start: tuple[float, float], start_height: float, end: tuple[float, float], end_height: float, between: float
) -> str:
    """between: the height at which a line to another row crosses over."""
    x0, y0 = start[0] + WIDTH, start[1] + start_height / 2
    x1, y1 = end[0] - 2, end[1] + end_height / 2
    if x1 > x0:
        bend = (x1 - x0) / 2
        path = f"M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}"
    else:
        path = f"M{start[0] + WIDTH / 2:g} {start[1] + start_height:g}V{between:g}H{LEFT / 3:g}V{y1:g}H{x1:g}"
    return f'<path class="pangu-chart-arrow" d="{path}" marker-end="url(#pangu-tip)"/>'
