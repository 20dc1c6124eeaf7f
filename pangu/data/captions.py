"""Which captions a row has: two languages, and the same under its style's prefix."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu.templates import Language

if TYPE_CHECKING:
    import pyarrow as pa

LANGUAGES: tuple[Language, Language] = ("en", "zh")
HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
"""First and last code point of each block of Chinese characters."""
_HAN = re.compile("[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in HAN) + "]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\d_]+")
EMPTY = -1
"""The caption variant that dropout puts in the place of any other."""
MORE: dict[str, str] = {language: f"more_captions_{language}" for language in LANGUAGES}
"""Columns of captions beside the first one of each language."""
KEYWORDS: dict[str, str] = {language: f"keywords_{language}" for language in LANGUAGES}
"""Columns of single words that an image may be asked for by, and that it may share with many others."""
TEXT_COLUMNS = (*(f"caption_{language}" for language in LANGUAGES), *MORE.values(), "style", *KEYWORDS.values())
"""All that decides what a row may be called."""


@dataclass(frozen=True)
class Caption:
    """Which words of a row are shown.

    variant: 0 en, 1 zh, 2 styled en, 3 styled zh, or EMPTY; number: which of the captions that the row has in that language.
    keyword, template: Numbers in [0, 1) that pick the keyword in the caption's place and the template around it; None: neither.
    short, long: A number in [0, 1) that picks one of the row's short, or long, captions in the place of `number`; None: neither.
    """

    variant: int = 0
    number: int = 0
    keyword: float | None = None
    template: float | None = None
    short: float | None = None
    long: float | None = None


def language_of(text: str) -> Language | None:
    """zh for a text with at least as many Chinese characters as words of other scripts, unless it is Japanese or Korean; else en.

    None: it has no letters. Other languages than the two are taken for en, as a caption column of English would hold them.
    """
    han = len(_HAN.findall(text))
    words = len(_WORD.findall(_HAN.sub(" ", text)))
    if not han + words:
        return None
    return "zh" if han >= max(words, 1) and not _KANA_OR_HANGUL.search(text) else "en"


def is_long(text: str, language: str) -> bool:
    """More than a phrase: over 24 words of English, or 40 characters of Chinese."""
    return len(text) > 40 if language == "zh" else len(text.split()) > 24


def captions_of(rows: "pa.Table", language: str) -> list[str]:
    """One caption per row; a missing one is the other language's."""
    other = LANGUAGES[1 - LANGUAGES.index(language)]
    pairs = zip(rows[f"caption_{language}"].to_pylist(), rows[f"caption_{other}"].to_pylist(), strict=True)
    return [own or instead or "" for own, instead in pairs]


def all_captions_of(rows: "pa.Table", language: str) -> list[list[str]]:
    """Every caption of each row, never none: those of the other language where it has no own, or else one that is empty."""
    own, instead = (_lists(rows, name) for name in (language, LANGUAGES[1 - LANGUAGES.index(language)]))
    return [mine or other or [""] for mine, other in zip(own, instead, strict=True)]


def keywords_of(rows: "pa.Table", language: str) -> list[list[str]]:
    """The keywords of each row in one language; none throughout for datasets from before there were keywords."""
    name = KEYWORDS[language]
    if name not in rows.column_names:
        return [[] for _ in range(rows.num_rows)]
    return [words or [] for words in rows[name].to_pylist()]


def _lists(rows: "pa.Table", language: str) -> list[list[str]]:
    first = rows[f"caption_{language}"].to_pylist()
    more = rows[MORE[language]].to_pylist() if MORE[language] in rows.column_names else [None] * rows.num_rows
    return [[caption, *(further or ())] if caption else [] for caption, further in zip(first, more, strict=True)]


def styles_of(rows: "pa.Table") -> list[str | None]:
    """One style or None per row; None throughout for datasets from before there were styles."""
    return rows["style"].to_pylist() if "style" in rows.column_names else [None] * rows.num_rows
