"""Lists of captions in COCO's form: one JSON document, read element by element; images and captions meet on the disk."""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.sorting import divided, sorted_by

CAPTION = "caption of an annotation"
BYTES_AT_ONCE = 1 << 20
ROWS_AT_ONCE = 16_384
_SAID = pa.schema([("id", pa.string()), ("place", pa.int64()), ("image", pa.string()), ("caption", pa.string())])
"""An image's fields as JSON, or one of its captions, with the place in the document."""
_DECODER = json.JSONDecoder(parse_float=str)


def coco_rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The fields of each image, with its captions as a list `caption` and the name of its licence as `license`; some at a time in
    memory.

    Raises:
        ValueError, KeyError, TypeError: it is no list of captions in COCO's form.
    """
    with ScratchFolder("pangu-coco-") as folder:
        licences, seen = dict[Any, Any](), set[str]()
        parts = divided(_tables(_said(file, licences, seen)), _by_id, folder)
        if {"images", "annotations"} - seen:
            raise KeyError("images")
        if CAPTION not in seen:
            raise LookupError("no caption")
        joined = (_joined(parts.read(number)) for number in range(len(parts)))
        for table in sorted_by("place", joined, folder):
            for row in table.to_pylist():
                fields = json.loads(row["image"])
                name = licences.get(fields.get("license"))
                yield {**fields, "caption": json.loads(row["caption"]), "license": name}


def _said(
    file: IO[bytes], licences: dict[Any, Any], seen: set[str]
) -> Iterator[tuple[str, int, str | None, str | None]]:
    """(id of an image, place, its fields or None, one of its captions or None); learns licences, and which keys there are."""
    for place, (key, element) in enumerate(elements(file)):
        seen.add(key)
        if element is None:
            continue
        if key == "licenses":
            licences[element["id"]] = element["name"]
        elif key == "images":
            yield json.dumps(element["id"]), place, json.dumps(element), None
        elif key == "annotations" and "caption" in element:
            seen.add(CAPTION)
            yield json.dumps(element["image_id"]), place, None, json.dumps(element["caption"])


def _tables(said: Iterator[tuple[str, int, str | None, str | None]]) -> Iterator[pa.Table]:
    yield _SAID.empty_table()
    some = []
    for one in said:
        some.append(one)
        if len(some) == ROWS_AT_ONCE:
            yield pa.table([list(column) for column in zip(*some, strict=True)], schema=_SAID)
            some = []
    if some:
        yield pa.table([list(column) for column in zip(*some, strict=True)], schema=_SAID)


def _by_id(rows: pa.Table, parts: int) -> np.ndarray:
    return np.asarray([crc32(one.encode()) % parts for one in rows["id"].to_pylist()], np.int64)


def _joined(rows: pa.Table) -> pa.Table:
    """Of a part the images, with all captions of each as one list."""
    captions, images = dict[str, list[str]](), list[dict[str, Any]]()
    for row in rows.to_pylist():
        if row["image"] is None:
            captions.setdefault(row["id"], []).append(row["caption"])
        else:
            images.append(row)
    told = [{**row, "caption": f"[{', '.join(captions.get(row['id'], ()))}]"} for row in images]
    return pa.Table.from_pylist(told, schema=_SAID)


def elements(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """(key, element) of every element of the lists of a JSON object, and (key, None) of each key; what is no list is passed over.

    Raises:
        ValueError: it is no JSON object.
    """
    text = _Document(file)
    text.expect("{")
    while not text.takes("}"):
        key = text.value()
        text.expect(":")
        yield key, None
        if text.takes("["):
            while not text.takes("]"):
                yield key, text.value()
                if not text.takes(","):
                    text.expect("]")
                    break
        else:
            text.value()
        if not text.takes(","):
            text.expect("}")
            break
    if text.next():
        raise ValueError("more than one document")


class _Document:
    """A document of which a stretch is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        first = file.read(BYTES_AT_ONCE)
        self._file, self._decode = file, codecs.getincrementaldecoder(json.detect_encoding(first))()
        self._text, self._at, self._ended = self._decode.decode(first), 0, False

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def takes(self, mark: str) -> bool:
        """Whether the next character is this one, which is then behind us."""
        found = self.next() == mark
        self._at += found
        return found

    def expect(self, mark: str) -> None:
        if not self.takes(mark):
            raise ValueError(f"'{mark}' is missing")

    def value(self) -> Any:
        """The next value, whole."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:  # a number may go on
                    self._at = end
                    return value
            except ValueError:
                if self._ended:
                    raise
            self._more()

    def _more(self) -> None:
        # What is not whole yet is looked at from its start again: ever longer stretches make that rare.
        data = self._file.read(max(BYTES_AT_ONCE, len(self._text) - self._at))
        self._ended = not data
        self._text = self._text[self._at :] + self._decode.decode(data, final=self._ended)
        self._at = 0
