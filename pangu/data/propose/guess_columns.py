"""Which columns of a table hold what, by their names and by what stands in their first rows. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pangu.data.captions import LANGUAGES, language_of
from pangu.data.ingest.table_files import Text

URLS = ("url", "image_url", "img_url", "coco_url", "jpg_url", "image_link", "flickr_url", "link", "src")
CAPTIONS = (
    "caption",
    "captions",
    "txt",
    "text",
    "prompt",
    "alt_text",
    "alt",
    "description",
    "title",
    "sentences",
    "label",
)
KEYWORDS = ("keywords", "tags", "tag_string", "labels")
FILE_NAMES = ("file_name", "filename", "file", "image_file", "image_path", "path", "image", "img", "name", "id")
IMAGES = ("image", "jpg", "png", "img", "webp", "picture", "bytes")
LICENCES, STYLES = ("license", "licence"), ("style",)
WIDTHS, HEIGHTS = ("width", "original_width", "image_width"), ("height", "original_height", "image_height")
SCORES = (
    "similarity", "clip_score", "pwatermark", "watermark", "punsafe", "nsfw", "aesthetic", "aesthetic_score", "prediction",
)  # fmt: skip
"""Of LAION and its like: nothing here reads them."""
OF_LANGUAGE = re.compile(r"(?:(.+)_)?(?:(en|eng|english)|(?:zh|cn|chinese|zh_cn|zho))")
"""A name with a language behind it, or of a language alone."""
WEB = re.compile(r"https?://", re.IGNORECASE)
MOSTLY = 0.8
"""Share of the rows that must look like what a column is taken for."""


@dataclass(frozen=True)
class GuessedColumns:
    """What the columns of a table are taken for.

    columns: the fields of `pangu.data.card.Columns` that are known; empty of captions where none is found. sides: width and
    height. scores: what nothing here reads.
    """

    columns: dict[str, str] = field(default_factory=dict)
    sides: tuple[str, str] | None = None
    scores: tuple[str, ...] = ()

    @property
    def has_captions(self) -> bool:
        return any(name.startswith("caption") for name in self.columns)


def guess_columns(head: Mapping[str, Sequence[Text]], file_name: str | None = None) -> GuessedColumns:
    """What each column of the first rows of a table is taken for.

    file_name: the column that is known to name files.
    """
    columns = dict[str, str]()
    if (url := _url_column(head)) is not None:
        columns["url"] = url
    taken = {url, file_name}
    rest = {name: values for name, values in head.items() if name not in taken}
    for key, names in (("license", LICENCES), ("style", STYLES)):
        if (found := _named(rest, names)) is not None and any(_each_row(rest[found])):
            columns[key] = found
    sides = _named(rest, WIDTHS), _named(rest, HEIGHTS)
    scores = tuple(name for name in rest if _plain(name) in SCORES)
    meant = {*columns.values(), *sides, *scores}
    columns |= _texts({name: values for name, values in rest.items() if name not in meant})
    return GuessedColumns(columns, sides if None not in sides else None, scores)  # type: ignore[arg-type]


def languages_in(texts: Sequence[Text]) -> dict[str, int]:
    """How many rows of a column have a text in each language."""
    found: dict[str, int] = dict.fromkeys(LANGUAGES, 0)
    for row in texts:
        for language in {language_of(text) for text in _each(row)} - {None}:
            found[language] += 1  # type: ignore[index]
    return found


def _texts(head: Mapping[str, Sequence[Text]]) -> dict[str, str]:
    """The columns of captions and keywords: by their names, or else the one that reads like captions."""
    named = sorted((name for name in head if _base(name) in CAPTIONS and _has_letters(head[name])), key=_order)
    keywords = [name for name in head if _base(name) in KEYWORDS and _has_letters(head[name])]
    found = _by_language("caption", head, named)
    if not found:
        found = _by_language("caption", head, _like_captions(head, set(keywords)))
    if keywords:
        found = (found or _by_language("caption", head, keywords[:1])) | _by_language("keywords", head, keywords)
    return found


def _order(name: str) -> tuple[bool, int]:
    """Columns that say their language come first, then those whose name is more usual."""
    return OF_LANGUAGE.fullmatch(_plain(name)) is None, CAPTIONS.index(_base(name))


def _by_language(kind: str, head: Mapping[str, Sequence[Text]], names: Sequence[str]) -> dict[str, str]:
    """The first column of each language, or the first one of all if it holds both and its name says neither."""
    found = dict[str, str]()
    for name in names:
        said = OF_LANGUAGE.fullmatch(_plain(name))
        counts = languages_in(head[name])
        both = all(counts.values()) and said is None
        if both and kind == "caption":
            return found or {kind: name}
        language = ("en" if said[2] else "zh") if said else max(LANGUAGES, key=counts.__getitem__)
        found.setdefault(f"{kind}_{language}", name)
    return found


def _like_captions(head: Mapping[str, Sequence[Text]], but: set[str]) -> list[str]:
    """The column whose texts read most like captions, if any does: words, not one text for all, no addresses, no file names."""
    lengths = dict[str, float]()
    for name, values in head.items():
        texts = list(_each_row(values))
        wordy = [text for text in texts if (" " in text.strip() or language_of(text) == "zh") and not WEB.match(text)]
        if name not in but and texts and len(wordy) >= MOSTLY * len(texts) and (len(set(texts)) > 1 or len(texts) == 1):
            lengths[name] = sum(map(len, texts)) / len(texts)
    return [max(lengths, key=lengths.__getitem__)] if lengths else []


def _url_column(head: Mapping[str, Sequence[Text]]) -> str | None:
    """The column of addresses: the usual name first, then any whose values are addresses."""
    holding = [name for name in head if _share(head[name], lambda text: bool(WEB.match(text))) >= MOSTLY]
    return min(holding, key=lambda name: _place(name, URLS), default=None)


def _named(head: Mapping[str, Any], names: Sequence[str]) -> str | None:
    found = [name for name in head if _plain(name) in names]
    return min(found, key=lambda name: names.index(_plain(name)), default=None)


def _each_row(values: Sequence[Text]) -> Iterator[str]:
    return (text for row in values for text in _each(row))


def _share(values: Sequence[Text], holds: Any) -> float:
    texts = list(_each_row(values))
    return sum(map(holds, texts)) / len(texts) if texts else 0.0


def _each(row: Text) -> Iterator[str]:
    yield from filter(None, row if isinstance(row, list) else [row])


def _has_letters(values: Sequence[Text]) -> bool:
    return any(language_of(text) is not None for text in _each_row(values))


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _base(name: str) -> str:
    """The name without its language: caption of caption_zh, and of zh."""
    plain = _plain(name)
    said = OF_LANGUAGE.fullmatch(plain)
    return (said[1] or CAPTIONS[0]) if said else plain


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(_plain(name)) if _plain(name) in names else len(names)
