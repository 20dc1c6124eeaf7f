"""The contact sheet: what the pair drew for each prompt, above the image that it learned from."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LABEL, MARGIN = 128, 12, 132, 28
CAPTION_LINES, LINE = 2, 19
INK, FAINT, PAPER, FRAME = "#1f2328", "#6e7781", "#ffffff", "#e4e7eb"
CJK_FILES = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
)


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
    _text(draw, (MARGIN, MARGIN - 6), title, 24, INK)
    for index, (label, images, captions) in enumerate(rows):
        y = top + index * row_height
        for number, line in enumerate(label.split("\n")):
            _text(draw, (MARGIN, y + CELL // 2 - 20 + number * 22), line, 16, INK if number == 0 else FAINT)
        for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
            x = MARGIN + LABEL + column * (CELL + GAP)
            sheet.paste(image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
            draw.rectangle((x - 1, y - 1, x + CELL, y + CELL), outline=FRAME)
            _caption(draw, x, y + CELL + 4, caption)
    _text(draw, (MARGIN, sheet.height - MARGIN), footnote, 12, FAINT)
    return sheet


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, caption: str) -> None:
    """Up to two centred lines under an image, broken where they must be."""
    font = _font(13)
    lines: list[str] = []
    rest = caption if _drawable(caption) else ""
    while rest and len(lines) < CAPTION_LINES:
        end = len(rest)
        while font.getlength(rest[:end]) > CELL:
            end -= 1
        if end < len(rest) and " " in rest[:end]:
            end = rest.rindex(" ", 0, end + 1)
        lines.append(rest[:end].strip())
        rest = rest[end:].strip()
    if rest:
        lines[-1] = lines[-1][:-1] + "…"
    for number, line in enumerate(lines):
        draw.text((x + (CELL - font.getlength(line)) / 2, y + number * LINE), line, INK, font)


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: str) -> None:
    if _drawable(text):
        draw.text(at, text, colour, _font(size))


def _drawable(text: str) -> bool:
    """Pillow's own font has Latin letters only."""
    return _cjk_file() is not None or all(ord(character) < 0x250 for character in text)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    file = _cjk_file()
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def _cjk_file() -> str | None:
    """Noto Sans SC (OFL) out of the package `zhplot`, which is found but never imported; or the system's own font."""
    package = importlib.util.find_spec("zhplot")
    folders = package.submodule_search_locations if package else None
    packaged = [str(Path(folder) / "fonts" / "NotoSansSC-Regular.ttf") for folder in folders or ()]
    return next((file for file in (*packaged, *CJK_FILES) if Path(file).is_file()), None)
