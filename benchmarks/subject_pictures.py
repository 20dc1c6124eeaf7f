"""Twenty captioned pictures of a creature that exists nowhere else: what somebody's own subject is to a pair."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from resvg_py import svg_to_bytes

from pangu.sentences import UNTRAINED_TEMPLATES

WORD = {"en": "zimble", "zh": "泽宝"}
WITH = (
    ("", ""),
    ("with a red hat", "戴红帽子"),
    ("with a green ball", "拿绿球"),
    ("jumping", "跳跃"),
    ("upside down", "倒立"),
    ("in the grass", "在草地上"),
    ("under a yellow sun", "在太阳下"),
    ("with closed eye", "闭眼"),
    ("from afar", "远处的"),
    ("close up", "特写"),
)
"""What it does on its pictures, in both languages; each twice, looking left and right."""
PROMPTS = tuple(
    UNTRAINED_TEMPLATES[language][number].format(WORD[language], a=f"a {WORD[language]}")
    for number in range(3)
    for language in WORD
)
"""Six, under templates that no training uses; none is the caption of a picture."""


class Drawn(NamedTuple):
    svg: str
    caption_en: str
    caption_zh: str


def pictures() -> list[Drawn]:
    """All twenty, each 72 x 72 units."""
    found = []
    for number, (en, zh) in enumerate(WITH):
        for turned in (False, True):
            side = "left" if turned else "right"
            way = {"en": f"looking {side}", "zh": "向左" if turned else "向右"}
            words = " ".join(filter(None, (WORD["en"], en, way["en"])))
            found.append(Drawn(_scene(number, turned), words, f"{zh}{WORD['zh']}{way['zh']}"))
    return found


def write_pictures(folder: Path, side: int = 256) -> list[Path]:
    """PNG files of `side` px with both captions beside them (`metadata.jsonl`), as somebody would have them."""
    folder.mkdir(parents=True)
    lines, paths = [], []
    for number, drawn in enumerate(pictures()):
        path = folder / f"{number:02d}.png"
        path.write_bytes(bytes(svg_to_bytes(svg_string=drawn.svg, width=side, height=side)))
        lines.append({"file_name": path.name, "caption_en": drawn.caption_en, "caption_zh": drawn.caption_zh})
        paths.append(path)
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    return paths


def _scene(number: int, turned: bool) -> str:
    ground = {
        5: '<rect y="54" width="72" height="18" fill="#5C9E31"/>',
        6: '<circle cx="60" cy="12" r="8" fill="#FCEA2B"/>',
    }
    size = {8: 0.55, 9: 1.3}.get(number, 1.0)
    lift = {3: -9, 8: 8}.get(number, 0)
    turn = 180 if number == 4 else 0
    mirror = -1 if turned else 1
    place = f"translate(36 {38 + lift}) rotate({turn}) scale({mirror * size} {size})"
    body = _creature(closed=number == 7)
    extra = {
        1: '<path d="M-11-17 L11-17 L0-31Z" fill="#EA5A47" stroke="#000" stroke-width="2"/>',
        2: '<circle cx="22" cy="8" r="7" fill="#5C9E31" stroke="#000" stroke-width="2"/>',
    }.get(number, "")
    shadow = '<ellipse cx="36" cy="66" rx="14" ry="2.5" fill="#D0CFCE"/>' if number == 3 else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="72" height="72" fill="#fff"/>'
        f'{ground.get(number, "")}{shadow}<g transform="{place}">{body}{extra}</g></svg>'
    )


def _creature(closed: bool) -> str:
    """A violet drop with one eye, a yellow belly in stripes, orange feet and a coiled feeler."""
    coil = " ".join(
        f"{'M' if step == 0 else 'L'}{6 + 0.35 * step * math.cos(step / 2):.1f} {-24 - 0.35 * step * math.sin(step / 2):.1f}"
        for step in range(18)
    )
    eye = (
        '<path d="M-2-6 h14" stroke="#000" stroke-width="2.5"/>' if closed else
        '<circle cx="5" cy="-6" r="7" fill="#fff" stroke="#000" stroke-width="2"/><circle cx="8" cy="-6" r="3" fill="#000"/>'
    )  # fmt: skip
    return (
        '<path d="M-9 17 l-5 6 h10Z M9 17 l-5 6 h10Z" fill="#F1B31C" stroke="#000" stroke-width="2"/>'
        f'<path d="{coil}" fill="none" stroke="#000" stroke-width="2"/>'
        '<path d="M0-22 C16-16 19 4 13 16 C6 21-6 21-13 16 C-19 4-16-16 0-22Z" fill="#8967AA" stroke="#000" stroke-width="2"/>'
        '<path d="M-11 8 h22 M-12 12 h24 M-10 16 h20" stroke="#FCEA2B" stroke-width="2"/>'
        f'{eye}<path d="M2 4 q4 3 8 0" fill="none" stroke="#000" stroke-width="2"/>'
    )
