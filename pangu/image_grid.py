"""Sheets of images drawn with Pillow."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, FRAME = "#1f2328", "#6e7781", "#ffffff", "#e4e7eb"

GAP = 4
"""px between the images of a grid."""


def sample_grid(rows: Sequence[Sequence[Image.Image]], gap: int = GAP) -> Image.Image:
    """Rows of equally sized images on white; shorter rows end early."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", ((width + gap) * columns + gap, (height + gap) * len(rows) + gap), PAPER)
    for y, images in enumerate(rows):
        for x, image in enumerate(images):
            sheet.paste(image, (gap + x * (width + gap), gap + y * (height + gap)))
    return sheet


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    sink = io.BytesIO()
    image.save(sink, "PNG")
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
