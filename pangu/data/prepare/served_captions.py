"""Short and long captions in both languages, written by a served model that sees; each image is asked about once.

Answers are kept by what was asked: the image's hash, the words it is listed with, the card's settings. So a run that goes on,
another version and another dataset with the same image ask nothing again.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pangu.data.captions import MORE, is_long, language_of
from pangu.data.fill_captions import CaptionServer
from pangu.data.images import ImageHWC
from pangu.data.ingest.source import UNREADABLE, UNWRITTEN
from pangu.data.prepare.captioning import made_small
from pangu.data.prepare.chat_endpoint import ChatEndpoint, Door
from pangu.errors import UserError
from pangu.storage import read_json, write_json

Wanted = tuple[str, str]
"""Length and language of a caption: ("short", "en")."""
Row = Mapping[str, Any]
ASKED = {
    ("short", "en"): "one English phrase of at most 20 words that names what the image shows",
    ("short", "zh"): "一句不超过三十个字的中文，说出图里有什么",
    (
        "long",
        "en",
    ): "an English description of 40 to 100 words: subjects, their looks and places, background, light, style",
    ("long", "zh"): "八十到二百个字的中文描述：主体、样子、位置、背景、光线、风格",
}
LONGEST = {"short": 400, "long": 2000}
"""Characters; an answer of more is no caption of that kind."""
REFUSALS = re.compile(
    r"(i'?m sorry|i am sorry|sorry[,.]|i can(no|')t|i am unable|as an ai|抱歉|对不起|很抱歉|我无法|作为一个?ai)",
    re.IGNORECASE,
)
FEW, MOST = 8, 0.5
"""After so many answers, a server is given up whose answers are useless more often than not."""
UNUSABLE = "unusable_caption"
"""The reason of an image that has no caption because no answer about it was usable."""


class ServedCaptions:
    """Asks about images; several requests are under way at a time."""

    def __init__(self, settings: CaptionServer, door: Door) -> None:
        self.name, self._settings = f"server:{settings.model}", settings
        self._endpoint = ChatEndpoint(settings, door)
        self._kept = door.kept and door.kept / hashlib.sha256(json.dumps(settings.work()).encode()).hexdigest()[:16]
        self._answers, self._useless, self._last = 0, 0, ""

    def wanted(self, row: Row, elsewhere: Collection[str] = ()) -> list[Wanted]:
        """What a row lacks of what the card asks for.

        elsewhere: Languages whose missing caption somebody else will write.
        """
        found: list[Wanted] = []
        for language in self._settings.languages:
            first, more = row[f"caption_{language}"], row.get(MORE[language]) or ()
            if "short" in self._settings.lengths and not first and language not in elsewhere:
                found.append(("short", language))
            if "long" in self._settings.lengths and not any(is_long(text, language) for text in (first or "", *more)):
                found.append(("long", language))
        return found

    def describe(
        self, asked: Mapping[int, tuple[Row, list[Wanted]]], pictures: Iterable[tuple[int, ImageHWC]]
    ) -> Iterator[tuple[int, dict[Wanted, str]]]:
        """The number of each row whose picture came, and the usable captions about it, in the pictures' order.

        Raises:
            UserError: the server stays away or refuses, or most of what it answers is no caption.
        """

        def ask(picture: tuple[int, ImageHWC]) -> tuple[int, dict[Wanted, str]]:
            number, image_hwc = picture
            return number, self._about(*asked[number], image_hwc)

        with ThreadPoolExecutor(self._settings.at_once) as pool:
            waiting: list[Future[Any]] = []
            try:
                remaining = iter(pictures)
                while batch := list(islice(remaining, self._settings.at_once)):
                    # Those before them are waited for only now, so that pictures are decoded while the server writes.
                    before, waiting = waiting, [pool.submit(ask, picture) for picture in batch]
                    yield from (future.result() for future in before)
                yield from (future.result() for future in waiting)
            finally:
                pool.shutdown(cancel_futures=True)

    def _about(self, row: Row, wanted: list[Wanted], image_hwc: ImageHWC) -> dict[Wanted, str]:
        listed = [row[f"caption_{language}"] for language in ("en", "zh") if row[f"caption_{language}"]]
        file = self._file(row["sha256"], listed, wanted)
        if file is not None and file.is_file():
            with suppress(ValueError, KeyError, AttributeError):  # a torn file is asked for again
                return {one: read_json(file)[_key(one)] for one in wanted}
        content: list[dict[str, Any]] = [
            {"type": "text", "text": self._question(listed, wanted)},
            {"type": "image_url", "image_url": {"url": _data_url(image_hwc)}},
        ]
        text = self._endpoint.ask(content, _schema(wanted))
        found = usable(text, wanted)
        self._count(text, found)
        if file is not None and len(found) == len(wanted):
            write_json(file, {_key(one): caption for one, caption in found.items()})
        return found

    def _file(self, sha256: str, listed: list[str], wanted: list[Wanted]) -> Path | None:
        if self._kept is None:
            return None
        digest = hashlib.sha256(json.dumps([sha256, listed, wanted]).encode()).hexdigest()
        return self._kept / digest[:2] / f"{digest[2:32]}.json"

    def _question(self, listed: list[str], wanted: list[Wanted]) -> str:
        keys = "\n".join(f'"{_key(one)}": {ASKED[one]}' for one in wanted)
        known = f"\nIt is listed as: {' / '.join(listed)}" if listed else ""
        asked = f"Describe the image. Answer with nothing but one JSON object of these keys:\n{keys}{known}"
        return f"{self._settings.instructions}\n{asked}".strip()

    def _count(self, text: str, found: dict[Wanted, str]) -> None:
        self._answers += 1
        if not found:
            self._useless, self._last = self._useless + 1, text
        if self._answers >= FEW and self._useless > MOST * self._answers:
            raise UserError(
                f"The captioning server {self._endpoint.address} answers no captions: {self._useless} of {self._answers} answers "
                f"are useless, the last {' '.join(self._last.split())[:120]!r}; try another model in fill_captions.server."
            )


def usable(text: str, wanted: Iterable[Wanted]) -> dict[Wanted, str]:
    """The captions in an answer that are what was asked for: text in its language, of its length, and no apology."""
    start, end = text.find("{"), text.rfind("}")  # some put it between ``` or after a sentence
    try:
        answer = json.loads(text[start : end + 1])
    except ValueError:
        return {}
    found: dict[Wanted, str] = {}
    for length, language in wanted:
        value = answer.get(_key((length, language)))
        caption = _cleaned(value) if isinstance(value, str) else ""
        if len(caption) <= LONGEST[length] and language_of(caption) == language and not REFUSALS.match(caption):
            found[length, language] = caption
    return found


def _cleaned(text: str) -> str:
    """As listed captions are; "" where it holds what is no text."""
    if re.search(UNREADABLE, text):
        return ""
    return str(pc.utf8_trim_whitespace(pc.replace_substring_regex(pa.scalar(text), UNWRITTEN, " ")))


def _key(wanted: Wanted) -> str:
    return "_".join(wanted)


def _schema(wanted: Iterable[Wanted]) -> dict[str, Any]:
    keys = [_key(one) for one in wanted]
    return {
        "type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": keys,
        "additionalProperties": False,
    }  # fmt: skip


def _data_url(image_hwc: ImageHWC) -> str:
    file = io.BytesIO()
    made_small(Image.fromarray(image_hwc)).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
