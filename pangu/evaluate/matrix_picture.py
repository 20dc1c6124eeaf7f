"""The pair matrix as a sheet: a cell per pair with its score and what it drew."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw

from pangu.evaluate.protocol import lower_is_better
from pangu.image_grid import FAINT, FRAME, INK, PAPER, shorten, write

MARGIN, GAP, HEADER, TITLE, FOOT = 32, 18, 44, 78, 44
THUMB, THUMB_GAP, COLUMNS, PAD = 72, 6, 3, 12
LABEL = 210
WEAK, STRONG, BEST = "#f3f4f6", "#a7d8b9", "#15803d"


@dataclass(frozen=True)
class Cell:
    """A pair: its two folders, its score, its place (0 is the best) and a few of its images."""

    structure: str
    texture: str
    score: float
    place: int
    images: tuple[Image.Image, ...]


def draw(cells: Sequence[Cell], metric: str, protocol_hash: str) -> Image.Image:
    """Structure generators down, texture generators across; darker green is better, the best pair is framed."""
    structures = list(dict.fromkeys(cell.structure for cell in cells))
    textures = list(dict.fromkeys(cell.texture for cell in cells))
    lines = -(-max(len(cell.images) for cell in cells) // COLUMNS)
    width = 2 * PAD + COLUMNS * (THUMB + THUMB_GAP) - THUMB_GAP
    height = HEADER + lines * (THUMB + THUMB_GAP) - THUMB_GAP + PAD
    size = (
        2 * MARGIN + LABEL + len(textures) * (width + GAP) - GAP,
        MARGIN + TITLE + len(structures) * (height + GAP) - GAP + FOOT,
    )
    sheet = Image.new("RGB", (max(size[0], 640), size[1]), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, MARGIN - 8), f"Pair matrix by {metric}", 24)
    names = labels([*structures, *textures])
    for column, texture in enumerate(textures):
        x = MARGIN + LABEL + column * (width + GAP)
        write(pen, (x + width / 2, MARGIN + TITLE - 12), shorten(names[texture], width, 15), 15, INK, "ms")
    write(pen, (MARGIN, MARGIN + TITLE - 12), "structure \\ texture", 13, FAINT, "ls")
    for cell in cells:
        row, column = structures.index(cell.structure), textures.index(cell.texture)
        at = MARGIN + LABEL + column * (width + GAP), MARGIN + TITLE + row * (height + GAP)
        _cell(sheet, pen, at, (width, height), cell, shade(cell.score, cells, metric))
    for row, structure in enumerate(structures):
        y = MARGIN + TITLE + row * (height + GAP) + height / 2
        write(pen, (MARGIN, y), shorten(names[structure], LABEL - 16, 15), 15, INK, "lm")
    better = "lower is better" if lower_is_better(metric) else "higher is better"
    write(
        pen, (MARGIN, sheet.height - 24), f"{better}; the framed pair is proposed; protocol {protocol_hash}", 13, FAINT
    )
    return sheet


def shade(score: float, cells: Sequence[Cell], metric: str) -> str:
    """The colour of a score between the worst and the best of the matrix."""
    values = [cell.score for cell in cells]
    low, high = min(values), max(values)
    part = 1.0 if high == low else (score - low) / (high - low)
    if lower_is_better(metric) and high > low:
        part = 1 - part
    mixed = [
        round(weak + part * (strong - weak))
        for weak, strong in zip(ImageColor.getrgb(WEAK), ImageColor.getrgb(STRONG), strict=True)
    ]
    return "#{:02x}{:02x}{:02x}".format(*mixed[:3])


def labels(folders: Sequence[str]) -> dict[str, str]:
    """Short names of folders: without what all of them share in front and behind."""
    parts = {folder: Path(folder).parts for folder in folders}
    if len(folders) == 1:
        return {folder: parts[folder][-1] for folder in folders}
    front = _shared(list(parts.values()))
    back = _shared([one[front:][::-1] for one in parts.values()])
    return {folder: "/".join(one[front : len(one) - back]) or one[-1] for folder, one in parts.items()}


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """How many first entries all rows share."""
    same = (len(set(entries)) == 1 for entries in zip(*rows, strict=False))
    return sum(1 for _ in takewhile(bool, same))


def _cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    size: tuple[int, int],
    cell: Cell,
    colour: str,
) -> None:
    (x, y), (width, height) = at, size
    box = (x, y, x + width, y + height)
    pen.rounded_rectangle(
        box, 10, fill=colour, outline=BEST if cell.place == 0 else FRAME, width=4 if cell.place == 0 else 1
    )
    write(pen, (x + PAD, y + HEADER / 2 + 2), figure(cell.score), 21, INK, "lm")
    note = "best" if cell.place == 0 else f"{cell.place + 1}."
    write(pen, (x + width - PAD, y + HEADER / 2 + 2), note, 15, BEST if cell.place == 0 else FAINT, "rm")
    for index, image in enumerate(cell.images):
        left = x + PAD + index % COLUMNS * (THUMB + THUMB_GAP)
        top = y + HEADER + index // COLUMNS * (THUMB + THUMB_GAP)
        sheet.paste(image.convert("RGB").resize((THUMB, THUMB), Image.Resampling.LANCZOS), (left, top))


def figure(score: float) -> str:
    """Three significant digits, as people read them."""
    return f"{score:.3f}" if abs(score) < 10 else f"{score:.1f}"
