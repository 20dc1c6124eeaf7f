"""The contact sheet: what the pair drew for each prompt, above the image that it learned from."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from pangu.image_grid import FAINT, FRAME, INK, PAPER
from pangu.lettering import CAPTION_LINES, LINE, caption, text

CELL, GAP, LABEL, MARGIN = 128, 12, 132, 28


def draw_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image], Sequence[str]]], title: str, footnote: str
) -> Image.Image:
    """Draw one row per (label, images, captions); all rows have the same number of images.

    Chinese captions need a font with Chinese glyphs; without one they are left out rather than drawn as boxes.
    """
    columns = len(rows[0][1])
    row_height = CELL + CAPTION_LINES * LINE + GAP + 6
    top = MARGIN + 44
    width = MARGIN * 2 + LABEL + columns * (CELL + GAP) - GAP
    sheet = Image.new("RGB", (width, top + len(rows) * row_height + MARGIN + 14), PAPER)
    draw = ImageDraw.Draw(sheet)
    text(draw, (MARGIN, MARGIN - 6), title, 24, INK)
    for index, (label, images, captions) in enumerate(rows):
        y = top + index * row_height
        for number, line in enumerate(label.split("\n")):
            text(draw, (MARGIN, y + CELL // 2 - 20 + number * 22), line, 16, INK if number == 0 else FAINT)
        for column, (image, own) in enumerate(zip(images, captions, strict=True)):
            x = MARGIN + LABEL + column * (CELL + GAP)
            sheet.paste(image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
            draw.rectangle((x - 1, y - 1, x + CELL, y + CELL), outline=FRAME)
            caption(draw, x, y + CELL + 4, CELL, own)
    text(draw, (MARGIN, sheet.height - MARGIN), footnote, 12, FAINT)
    return sheet
