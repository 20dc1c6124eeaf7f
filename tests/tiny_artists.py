"""Packages as npm would install them, with a plain square for each emoji in place of an artist's drawing."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pangu.data.example.artists import ARTISTS, KEYWORDS_PACKAGE, UNSEEN, Artist
from pangu.data.example.openmoji import Emoji

TAGS = {"en": ("shape", "Square"), "zh": ("形状", "方块")}


def write_packages(folder: Path, emoji: Iterable[Emoji]) -> Path:
    """The `node_modules` folder under `folder`, where every artist, the unseen one too, drew each emoji in its own colour."""
    packages, emoji = folder / "node_modules", list(emoji)
    for artist in (*ARTISTS.values(), UNSEEN):
        icons = {one.stem.lower(): {"body": square(one, artist)} for one in emoji}
        write(packages, artist.package, "icons.json", {"icons": icons, "width": 36, "height": 36})
        write(packages, artist.package, "chars.json", {codes(one.text): one.stem.lower() for one in emoji})
    for language, tags in TAGS.items():
        data = [{"emoji": one.text, "tags": [*tags, getattr(one, f"caption_{language}")]} for one in emoji]
        write(packages, KEYWORDS_PACKAGE, f"{language}/data.json", data)
    return packages


def square(one: Emoji, artist: Artist) -> str:
    colour = hashlib.sha256(f"{artist.package} {one.text}".encode()).hexdigest()[:6]
    return f'<path fill="#{colour}" d="M6 6h24v24H6z"/>'


def codes(text: str) -> str:
    return "-".join(f"{ord(character):x}" for character in text)


def write(packages: Path, package: str, file: str, content: Any) -> None:
    path = packages / package / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
