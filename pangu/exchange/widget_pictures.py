"""The pictures of a model card: the first that an evaluation drew, each with the caption that it was drawn for."""

from pathlib import Path
from typing import NamedTuple

from pangu.data.images import read_comments, read_rgb
from pangu.image_grid import GAP, grid_facts, png

MOST = 6


class WidgetPicture(NamedTuple):
    """place: in the repository."""

    place: str
    caption: str
    png: bytes


def widget_pictures(grid: Path | None) -> list[WidgetPicture]:
    """Of the grid that `pangu evaluate` left; none of one that is gone or does not say its captions."""
    if grid is None or not grid.is_file():
        return []
    data = grid.read_bytes()
    sheet = read_rgb(data)
    sheet.info.update(dict[str | tuple[int, int], str](read_comments(data)[0]))
    facts = grid_facts(sheet)
    if facts is None or not facts.rows:
        return []
    height = (sheet.height - GAP) // len(facts.rows) - GAP
    found = []
    for column, caption in enumerate(facts.captions[:MOST]):
        left = GAP + column * (facts.side + GAP)
        picture = sheet.crop((left, GAP, left + facts.side, GAP + height))
        picture.info = {}  # what the sheet said of itself
        found.append(WidgetPicture(f"images/{column}.png", caption, png(picture)))
    return found
