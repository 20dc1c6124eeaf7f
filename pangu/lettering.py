"""Text in both scripts on pictures drawn with Pillow."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pangu.image_grid import FRAME, INK, PAPER

CAPTION_LINES, LINE = 2, 19
"""Most lines of a caption, and px from one to the next."""
CELL, GAP, MARGIN = 128, 12, 16
"""Side of a picture on a sheet, space between two, and around all, px."""
CJK_FILES = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
)


def captioned(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 8, cell: int = CELL
) -> Image.Image:
    """Pictures in rows, each in a thin frame above its caption; Chinese is left out where no font has it. cell: px a side."""
    columns = min(columns, len(images))
    height = cell + GAP + CAPTION_LINES * LINE
    size = (2 * MARGIN + columns * (cell + GAP) - GAP, 2 * MARGIN + -(-len(images) // columns) * height)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (image, words) in enumerate(zip(images, captions, strict=True)):
        x, y = MARGIN + place % columns * (cell + GAP), MARGIN + place // columns * height
        sheet.paste(image.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=FRAME)
        caption(draw, x, y + cell + 4, cell, words)
    return sheet


def caption(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, words: str) -> None:
    """Up to two centred lines within `width` px, broken where they must be.

    Chinese needs a font with Chinese glyphs; without one it is left out rather than drawn as boxes.
    """
    font = _font(13)
    lines: list[str] = []
    rest = words if _drawable(words) else ""
    while rest and len(lines) < CAPTION_LINES:
        end = len(rest)
        while font.getlength(rest[:end]) > width:
            end -= 1
        if end < len(rest) and " " in rest[:end]:
            end = rest.rindex(" ", 0, end + 1)
        lines.append(rest[:end].strip())
        rest = rest[end:].strip()
    if rest:
        lines[-1] = lines[-1][:-1] + "…"
    for number, line in enumerate(lines):
        draw.text((x + (width - font.getlength(line)) / 2, y + number * LINE), line, INK, font)


def text(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, size: int, colour: str) -> None:
    """One line, left out where no font here has its script."""
    if _drawable(words):
        draw.text(at, words, colour, _font(size))


def _drawable(words: str) -> bool:
    """Pillow's own font has Latin letters only."""
    return _cjk_file() is not None or all(ord(character) < 0x250 for character in words)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    file = _cjk_file()
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def _cjk_file() -> str | None:
    """Noto Sans SC (OFL) out of the package `zhplot`, which is found but never imported; or the system's own font."""
    package = importlib.util.find_spec("zhplot")
    folders = package.submodule_search_locations if package else None
    packaged = [str(Path(folder) / "fonts" / "NotoSansSC-Regular.ttf") for folder in folders or ()]
    return next((file for file in (*packaged, *CJK_FILES) if Path(file).is_file()), None)
