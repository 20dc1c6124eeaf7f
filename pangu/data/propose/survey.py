"""What becomes of every row that a source lists: read as ingest reads it, judged as prepare will judge it.

Rows of tables of URLs are not fetched here; of images that lie in files every header is read, and the first ones are decoded.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image, ImageOps

from pangu.data.captions import LANGUAGES
from pangu.data.card import Card
from pangu.data.images import BadImage, check_header, read_rgb
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.local_sources import LocalImages, local_images
from pangu.data.ingest.raw import reason_of
from pangu.data.ingest.source import expand, listing, read_tables
from pangu.data.ingest.stage import check_source
from pangu.data.prepare.scores import english
from pangu.data.shared_words import shared_words
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home

DECODED = 1000
"""Images that are decoded; of further ones the header is believed."""
READ = 200
"""English captions whose language is looked at; short ones say nothing of it."""
SHOWN = 10
"""Pictures of the sheet."""
SHOWN_SIDE = 192
"""Of a picture on the sheet, px."""


@dataclass(frozen=True)
class ShownRow:
    """A picture of the sheet, square, and what is said of it."""

    picture: Image.Image
    caption: str


class SurveyedRow(NamedTuple):
    """A row that can be used but for its size: its smaller side, px, None where nobody has told, and its captions' languages."""

    side: int | None
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """What became of every listed row: listed = len(rows) + the sum of `failed`.

    foreign, read: of some captions without Chinese, how many read like another language than English. shared: the words, one of
    each language, that are in all captions. shown: a few rows, spread over all.
    """

    listed: int
    failed: Counter[str]
    rows: list[SurveyedRow]
    foreign: int = 0
    read: int = 0
    shared: tuple[str, ...] = ()
    shown: list[ShownRow] = field(default_factory=list)

    @property
    def sides(self) -> list[int]:
        return [row.side for row in self.rows if row.side is not None]


@dataclass(frozen=True)
class Sizes:
    """Rows by what their size lets them train: large ones both generators, enlarged ones the structure generator.

    unmeasured: rows whose size is known when they are fetched. captions: rows in each language, without those that are too small.
    """

    large: int
    enlarged: int
    too_small: int
    unmeasured: int
    captions: Counter[str]

    @property
    def usable(self) -> int:
        return self.large + self.enlarged + self.unmeasured


def sizes(survey: Survey, texture_min_side: int, target_side: int, max_factor: float) -> Sizes:
    """How many rows would train what under these sides, px; `too_small` would need enlarging by more than `max_factor`."""
    counts, captions = Counter[str](), Counter[str]()
    for side, languages in survey.rows:
        if side is None:
            fate = "unmeasured"
        elif side >= texture_min_side:
            fate = "large"
        else:
            fate = "enlarged" if target_side / side <= max_factor else "too_small"
        counts[fate] += 1
        if fate != "too_small":
            captions.update(languages)
    return Sizes(counts["large"], counts["enlarged"], counts["too_small"], counts["unmeasured"], captions)


def survey(card: Card, home: Home, sides: tuple[str, str] | None = None, report: Reporter = silent) -> Survey:
    """Read a source through.

    sides: columns of a table of URLs that hold width and height, px.

    Raises:
        UserError: as of `read_source`.
    """
    local = local_images(card, home)
    if local is None:
        return _of_urls(card, home, sides)
    return _of_images(card, listing(card, card.source_uri(home), local.table), local, report)


def _of_urls(card: Card, home: Home, sides: tuple[str, str] | None) -> Survey:
    listed = read_source(card, home)
    refused = check_source(card, listed, home)
    tongue = _Tongue()
    said = _said_sides(card, home, sides, listed.num_rows)
    failed, found = Counter[str](), list[SurveyedRow]()
    for row, texts in enumerate(_texts(listed)):
        if reason := refused.get(row) or _missing(card, texts):
            failed[reason] += 1
            continue
        tongue.hear(texts)
        found.append(SurveyedRow(said[row], tuple(texts)))
    return Survey(listed.num_rows, failed, found, tongue.foreign, tongue.read, tongue.shared)


def _said_sides(card: Card, home: Home, sides: tuple[str, str] | None, rows: int) -> Sequence[int | None]:
    """The smaller side of each row, as the table says; None where it says no number."""
    if sides is None:
        return [None] * rows
    table = read_tables(card, expand(card, card.source_uri(home)), sides)
    pairs = zip(*(map(_number, table[name].to_pylist()) for name in sides), strict=True)
    return [None if width is None or height is None else min(width, height) for width, height in pairs]


def _number(text: Any) -> int | None:
    try:
        return max(1, int(float(text)))
    except (TypeError, ValueError, OverflowError):
        return None


def _of_images(card: Card, listed: pa.Table, local: LocalImages, report: Reporter) -> Survey:
    failed, found, seen = Counter[str](), list[SurveyedRow](), set[bytes]()
    shown, total, tongue = list[ShownRow](), listed.num_rows, _Tongue()
    for row, (texts, (data, why)) in enumerate(zip(_texts(listed), local.read(), strict=True)):
        try:
            side = _smaller_side(card, data, why)
            if reason := _missing(card, texts):
                raise BadImage(reason)
            if (digest := hashlib.sha256(data or b"").digest()) in seen:
                raise BadImage("duplicate")
            seen.add(digest)
            wanted = len(shown) * total < SHOWN * (row + 1) and len(shown) < SHOWN
            if len(found) < DECODED or wanted:
                picture = read_rgb(data or b"", card.limits.max_pixels, SHOWN_SIDE)
                if wanted:
                    shown.append(ShownRow(squared(picture), said_of(side, texts.values())))
            found.append(SurveyedRow(side, tuple(texts)))
            tongue.hear(texts)
        except BadImage as error:
            failed[error.reason] += 1
        report(Progress(stage="look", done=row + 1, total=total, unit="pictures"))
    return Survey(total, failed, found, tongue.foreign, tongue.read, tongue.shared, shown)


@dataclass
class _Tongue:
    """Counts captions that read like another language than English, among the first `READ` that are long enough to tell, and
    keeps those of the first `READ` rows."""

    foreign: int = 0
    read: int = 0
    heard: list[dict[str, str]] = field(default_factory=list)

    @property
    def shared(self) -> tuple[str, ...]:
        """What all captions of a language have in common, where it is a single word."""
        told = ((language, [texts[language] for texts in self.heard if texts.get(language)]) for language in LANGUAGES)
        found = (shared_words(captions, language) for language, captions in told)
        return tuple(word for word in found if word is not None and len(word.split()) == 1)

    def hear(self, texts: dict[str, str]) -> None:
        if len(self.heard) < READ:
            self.heard.append(texts)
        if self.read < READ and (probability := english(texts.get("en", ""))) is not None:
            self.read += 1
            self.foreign += probability < 0.5


def _smaller_side(card: Card, data: bytes | None, why: str) -> int:
    """From the header, as ingest reads it.

    Raises:
        BadImage: there are no bytes, or no image in them.
    """
    if data is None:
        raise BadImage(reason_of(why))
    if len(data) > card.limits.max_bytes:
        raise BadImage("too_many_bytes")
    return min(check_header(data, card.limits.max_pixels))


def _texts(listed: pa.Table) -> Iterator[dict[str, str]]:
    """The captions of each row, by language; those that it lacks are left out."""
    for pair in zip(*(listed[f"caption_{language}"].to_pylist() for language in LANGUAGES), strict=True):
        yield {language: text for language, text in zip(LANGUAGES, pair, strict=True) if text}


def _missing(card: Card, texts: dict[str, str]) -> str:
    return "" if texts or card.describes else "missing_caption"


def said_of(side: int, captions: Iterable[str]) -> str:
    """What stands under a picture of the sheet, where two lines have room."""
    return f"{side} px: {' / '.join(captions)}"[:200]


def squared(picture: Image.Image) -> Image.Image:
    """The whole picture on a square of white."""
    return ImageOps.pad(picture, (SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS, "#ffffff")
