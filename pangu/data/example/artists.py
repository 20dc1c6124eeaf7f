"""Other artists' drawings of the same list, and the words that Unicode's CLDR has for each, from packages of npm in a folder.

Each Iconify package holds every drawing of one set as the body of an SVG. None of them is needed to use the platform.
"""

import functools
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pangu.data.example import openmoji
from pangu.data.example.openmoji import Emoji
from pangu.data.example.tones import few_tones
from pangu.errors import UserError

VARIATION = "\ufe0f"
"""Asks for the colourful form of the character before it; packages write it or leave it out."""
KEYWORDS_PACKAGE = "emojibase-data"
USUAL_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
"""What Iconify means where a package leaves it out."""
MARGIN = 0.06
"""White on each side, as a share of the drawing's."""


@dataclass(frozen=True)
class Artist:
    """One set of drawings. package: of npm; names_from: another package, whose list says which emoji a drawing's name means."""

    package: str
    licence: str
    attribution: str
    names_from: str | None = None


ARTISTS: Mapping[str, Artist] = {
    "twemoji": Artist("@iconify-json/twemoji", "CC BY 4.0", "Twemoji, by Twitter and contributors. License: CC BY 4.0"),
    "noto": Artist("@iconify-json/noto", "Apache 2.0", "Noto Emoji, by Google. License: Apache 2.0"),
    "blob": Artist(
        "@iconify-json/noto-v1", "Apache 2.0", "Noto Emoji of 2016 (the blobs), by Google. License: Apache 2.0",
        names_from="@iconify-json/noto",
    ),
}  # fmt: skip
"""Style -> the artist that draws in it, beside OpenMoji. All but the first line of blobs lack what Unicode added after 2016."""
UNSEEN = Artist("@iconify-json/fluent-emoji-flat", "MIT", "Fluent Emoji, by Microsoft. License: MIT")
"""Whose drawings nothing embedded has learnt from: the autoencoder is judged by them."""


def with_artists(emoji: Sequence[Emoji], packages: Path) -> list[Emoji]:
    """These drawings of OpenMoji's, then every artist's of the same emoji in its style, all of them with keywords.

    Other artists' people come in two skin tones each (`few_tones`, shifted by the artist's place), OpenMoji's in all five.

    Raises:
        UserError: one of the packages is not there.
    """
    named = with_keywords(emoji, packages)
    found = list(named)
    for place, (style, artist) in enumerate(ARTISTS.items()):
        drawn = drawings(packages, artist)
        few = few_tones((one.text for one in named if key(one.text) in drawn), shift=place)
        found += [in_style(one, style, drawn) for one in named if one.text in few]
    return found


def with_keywords(emoji: Sequence[Emoji], packages: Path) -> list[Emoji]:
    """With CLDR's words in both languages, and the emoji itself in all spellings.

    A word that is the caption of one of them is nobody's keyword: "man" must not draw one of 668 others in place of its own.

    Raises:
        UserError: the package with the words is not there.
    """
    taken_en = {one.caption_en.casefold() for one in emoji}
    taken_zh = {one.caption_zh.casefold() for one in emoji}

    def words(language: str, text: str, taken: Set[str]) -> tuple[str, ...]:
        every = dict.fromkeys((*keywords(packages, language).get(key(text), ()), text, key(text)))
        return tuple(word for word in every if word.casefold() not in taken)

    return [
        replace(one, keywords_en=words("en", one.text, taken_en), keywords_zh=words("zh", one.text, taken_zh))
        for one in emoji
    ]


def in_style(one: Emoji, style: str, drawn: Mapping[str, str]) -> Emoji:
    """The same emoji as another artist draws it; `drawn` is what `drawings` has of that artist."""
    return replace(one, style=style, stem=f"{one.stem}-{style}", drawn=drawn[key(one.text)])


def licence_of(style: str | None) -> str:
    """The licence of the drawings in a style; any that is no artist's is made of OpenMoji's."""
    return ARTISTS[style].licence if style and style in ARTISTS else openmoji.licence()


def key(text: str) -> str:
    """An emoji without variation selectors: one name for all spellings."""
    return text.replace(VARIATION, "")


@functools.cache
def drawings(packages: Path, artist: Artist) -> dict[str, str]:
    """Key of an emoji -> its drawing as SVG; `packages` is the `node_modules` folder that npm filled.

    Raises:
        UserError: the package is not there.
    """
    found = _read(packages, artist.package, "icons.json")
    characters = _read(packages, artist.names_from or artist.package, "chars.json")
    sizes = {side: found.get(side, usual) for side, usual in USUAL_BOX.items()}
    drawn: dict[str, str] = {}
    for codes, name in characters.items():
        icon = _icon(found, name)
        if icon is not None:
            text = "".join(chr(int(code, 16)) for code in codes.split("-"))
            drawn.setdefault(key(text), _svg(sizes | icon))
    return drawn


@functools.cache
def keywords(packages: Path, language: str) -> dict[str, tuple[str, ...]]:
    """Key of an emoji -> the words that CLDR has for it in "en" or "zh", variants in skin tones included."""
    words: dict[str, tuple[str, ...]] = {}
    for one in _read(packages, KEYWORDS_PACKAGE, f"{language}/data.json"):
        for variant in (one, *one.get("skins", ())):
            words[key(variant["emoji"])] = tuple(one.get("tags", ()))
    return words


def _icon(found: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The icon of that name or of what the name stands for; None where it is not drawn, or turned by Iconify."""
    if name in found["icons"]:
        icon: dict[str, Any] = found["icons"][name]
        return icon
    alias = found.get("aliases", {}).get(name)
    return None if alias is None or set(alias) != {"parent"} else _icon(found, alias["parent"])


def _svg(icon: Mapping[str, Any]) -> str:
    """A whole SVG file, with the margin that OpenMoji's drawings have."""
    room = MARGIN * icon["width"], MARGIN * icon["height"]
    corner = icon["left"] - room[0], icon["top"] - room[1]
    box = " ".join(f"{value:g}" for value in (*corner, icon["width"] + 2 * room[0], icon["height"] + 2 * room[1]))
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}">{icon["body"]}</svg>'


def _read(packages: Path, package: str, file: str) -> Any:
    try:
        return json.loads((packages / package / file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        usual = (artist.package for artist in ARTISTS.values())
        needed = " ".join(dict.fromkeys((*usual, KEYWORDS_PACKAGE, package)))
        raise UserError(
            f"There is no readable {file} of {package} in {packages}; install what the artists' drawings need with "
            f"`npm install --prefix {packages.absolute().parent} {needed}`."
        ) from error
