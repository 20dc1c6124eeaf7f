"""Sheets of images drawn with Pillow."""

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

INK, FAINT, PAPER, FRAME = "#1f2328", "#6e7781", "#ffffff", "#e4e7eb"

GAP = 4
"""px between the images of a grid."""
FACTS = "pangu-grid"
"""Under this name a grid's PNG file keeps, as JSON, how it is laid out and what its rows and columns show."""


class GridFacts(NamedTuple):
    """Of a grid: width of an image in px, what each row is, and the caption of each column of the first rows."""

    side: int
    rows: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


def sample_grid(
    rows: Sequence[Sequence[Image.Image]], gap: int = GAP, named: Sequence[str] = (), captions: Sequence[str] = ()
) -> Image.Image:
    """Rows of equally sized images on white; shorter rows end early. Its file says what `GridFacts` holds."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", ((width + gap) * columns + gap, (height + gap) * len(rows) + gap), PAPER)
    for y, images in enumerate(rows):
        for x, image in enumerate(images):
            sheet.paste(image, (gap + x * (width + gap), gap + y * (height + gap)))
    facts = {"side": width, "rows": list(named), "captions": list(captions)}
    sheet.info[FACTS] = json.dumps(facts, ensure_ascii=False)
    return sheet


def grid_facts(grid: Image.Image) -> GridFacts | None:
    """What a grid says of itself; None for one that was drawn before grids did, or another picture."""
    try:
        facts = json.loads(grid.info[FACTS])
        return GridFacts(int(facts["side"]), tuple(facts["rows"]), tuple(facts["captions"]))
    except (KeyError, TypeError, ValueError):
        return None


def whole_columns(grid: Image.Image, width: int, gap: int = GAP) -> tuple[Image.Image, int]:
    """(as many whole columns of a grid as are at most `width` px wide, but at least one; their number, 0 if nobody knows)."""
    facts = grid_facts(grid)
    if facts is None or grid.width <= width:
        return grid, 0 if facts is None else (grid.width - gap) // (facts.side + gap)
    columns = max(1, (width - gap) // (facts.side + gap))
    return grid.crop((0, 0, gap + columns * (facts.side + gap), grid.height)), columns


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file; a grid's says how it is laid out."""
    sink, said = io.BytesIO(), PngInfo()
    if FACTS in image.info:
        said.add_itxt(FACTS, image.info[FACTS])
    image.save(sink, "PNG", pnginfo=said)
    return sink.getvalue()


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: str = INK, anchor: str = "la"
) -> None:
    """Latin text in Pillow's own font; `anchor` as Pillow defines it."""
    draw.text(at, text, colour, font(size), anchor=anchor)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def shorten(text: str, width: float, size: int) -> str:
    """The text, its middle left out where it is wider than `width` px."""
    if font(size).getlength(text) <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and font(size).getlength(_cut(text, keep)) > width:
        keep -= 1
    return _cut(text, keep)


def _cut(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
