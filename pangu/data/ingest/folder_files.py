"""Folders of image files: every file becomes a row, or is the caption of one; then what metadata names and is not there.

No name is in memory longer than its part of all names: files are divided by what they may have captions in common with, joined
with their captions and with what metadata says of them, and sorted by their paths, on the disk.
"""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa

from pangu.data.card import Card
from pangu.data.ingest.file_names import caption_group, captions_beside, is_image, other_file, same_name
from pangu.data.ingest.image_files import FileRow, Image, ImageFiles, Stamp, texts_of, too_many_bytes
from pangu.data.ingest.source import READERS, each_table
from pangu.data.table.sorting import divided, sorted_by
from pangu.errors import UserError

FILE_NAME = "file_name"
"""Column of a folder's metadata file that names the image, as in Hugging Face's image folders."""
MISSING_FILE = "missing_file"
_ROWS_AT_ONCE = 16_384
_FOUND = pa.schema([("name", pa.binary()), ("plain", pa.bool_())])
_SHOWN = pa.schema(
    [("order", pa.binary()), ("name", pa.binary()), ("captions", pa.list_(pa.binary())), ("said", pa.string())]
)
"""What becomes a row. said: what metadata says of it, as JSON; null: nothing. captions: null of a file that is not there."""
_LAST = b"\xff\xff"
"""Before the order of what is not there: no path begins so."""


class _MetadataFile(NamedTuple):
    """A file that says what images show. name: within the folder; "" if it lies elsewhere. column: of file names."""

    name: str
    path: Path
    column: str


def files_of_folder(card: Card, folder: Path) -> ImageFiles:
    """Every file below a folder, in the order of their paths, then what its metadata names and is not there.

    Raises:
        UserError: a folder or the metadata cannot be read.
    """
    found, stamp = ImageFiles(lambda rows: _read_each(card, folder, rows)), Stamp()
    metadata = list[_MetadataFile]()
    names = divided(_walked(card, folder, metadata), _by_caption_group, _made(found.folder / "names"))
    shown: Iterator[pa.Table] = (_with_captions(names.read(number), metadata) for number in range(len(names)))
    # Nothing is divided before all files have been walked past, so that the metadata is known.
    if metadata:
        shown = _with_metadata(card, folder, shown, metadata, _made(found.folder / "said"))
    found.write(_rows(card, folder, sorted_by("order", shown, found.folder), stamp))
    found.stamp = stamp.digest()
    return found


def walk(card: Card, folder: Path) -> Iterator[Path]:
    """Every file below a folder, whatever it is, in no order; links to folders are followed, once."""
    seen, waiting = set[str](), [str(folder)]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        folders = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        folders.append(entry.path)
                    else:
                        yield Path(entry.path)
        except OSError as error:
            raise UserError(
                f"The folder {error.filename} of card '{card.name}' cannot be read: {error.strerror}."
            ) from error
        waiting += sorted(folders, reverse=True)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _walked(card: Card, folder: Path, metadata: list[_MetadataFile]) -> Iterator[pa.Table]:
    """Every file, schema `_FOUND`; ends by adding the files of metadata among them to the list."""
    files, own, named = walk(card, folder), card.metadata_file(), dict[tuple[int, str], _MetadataFile]()
    suffixes, inside = list(READERS), ""
    yield _FOUND.empty_table()
    while some := list(islice(files, _ROWS_AT_ONCE)):
        names, plain = [], []
        for path in some:
            name = path.relative_to(folder).as_posix()
            names.append(os.fsencode(name))
            plain.append(is_image(name) or _is_file(path))
            if own is not None:
                inside = name if path.name == own.name and os.path.realpath(path) == os.path.realpath(own) else inside
            elif path.stem.lower() == "metadata" and path.suffix.lower() in suffixes and plain[-1]:
                named[suffixes.index(path.suffix.lower()), name] = _MetadataFile(name, path, FILE_NAME)
        yield pa.table([pa.array(names, pa.binary()), plain], schema=_FOUND)
    if own is not None and card.metadata is not None:
        metadata.append(_MetadataFile(inside, own, card.metadata.file_name))
    # Of each folder one, of the first format that it has.
    for _, one in sorted(named.items(), key=lambda item: (item[0][0], _order(os.fsencode(item[0][1])))):
        if one.path.parent not in {other.path.parent for other in metadata}:
            metadata.append(one)


def _order(name: bytes) -> bytes:
    """Sorts names as paths: a folder's files before those of what is called as the folder is and more."""
    return name.replace(b"/", b"\0")


def _by_caption_group(rows: pa.Table, parts: int) -> np.ndarray:
    groups = (caption_group(os.fsdecode(name)) for name in rows["name"].to_pylist())
    return np.asarray([crc32(os.fsencode(group)) % parts for group in groups], np.int64)


def _with_captions(found: pa.Table, metadata: Iterable[_MetadataFile]) -> pa.Table:
    """Those files of a part that are captions of none, with their captions; schema `_SHOWN`."""
    names = [os.fsdecode(name) for name in found["name"].to_pylist()]
    plain = {name for name, is_plain in zip(names, found["plain"].to_pylist(), strict=True) if is_plain}
    beside = captions_beside(plain)
    used = {one.name for one in metadata} | {caption for own in beside.values() for caption in own}
    shown = sorted(os.fsencode(name) for name in names if name not in used)
    captions = [[os.fsencode(caption) for caption in beside.get(os.fsdecode(name), ())] for name in shown]
    return pa.table([list(map(_order, shown)), shown, captions, pa.nulls(len(shown), pa.string())], schema=_SHOWN)


def _with_metadata(
    card: Card, folder: Path, shown: Iterable[pa.Table], metadata: Iterable[_MetadataFile], scratch: Path
) -> Iterator[pa.Table]:
    """A row for each time that metadata speaks of a file, one where it does not, and one for each file that is not there."""
    lines = _said(card, folder, metadata)

    def both() -> Iterator[pa.Table]:
        yield from shown
        while some := list(islice(lines, _ROWS_AT_ONCE)):
            # In the place of its order and captions, where it stands in the metadata.
            columns: list[Any] = [[_LAST + place.to_bytes(8) for place, _, _ in some], [name for _, name, _ in some]]
            yield pa.table(
                [*columns, pa.nulls(len(some), _SHOWN.field("captions").type), [s for *_, s in some]], schema=_SHOWN
            )

    def by_name(rows: pa.Table, parts: int) -> np.ndarray:
        names = (same_name(os.fsdecode(name)) for name in rows["name"].to_pylist())
        return np.asarray([crc32(os.fsencode(name)) % parts for name in names], np.int64)

    parts = divided(both(), by_name, scratch)
    for number in range(len(parts)):
        rows = [(same_name(os.fsdecode(row["name"])), row) for row in parts.read(number).to_pylist()]
        rows.sort(key=lambda one: (one[0], one[1]["order"]))
        joined = [row for _, same in groupby(rows, key=lambda one: one[0]) for row in _joined([row for _, row in same])]
        yield pa.Table.from_pylist(joined, schema=_SHOWN)


def _joined(same: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Files of one name, however accents are written in it, and what is said of that name: the first of them gets all of it."""
    files, said = [row for row in same if row["said"] is None], [row for row in same if row["said"] is not None]
    if not files:
        # Where the name was first spoken of, all that is said of it stands.
        yield from ({**row, "order": said[0]["order"] + row["order"]} for row in said)
        return
    first, *others = files
    yield from ({**first, "said": row["said"]} for row in said or [first])
    yield from others


def _said(card: Card, folder: Path, metadata: Iterable[_MetadataFile]) -> Iterator[tuple[int, bytes, str]]:
    """(place, name of the file, what is said of it as JSON) of every row of metadata."""
    named = [name for name in card.columns.model_dump(exclude={"url", "image"}).values() if name]
    place = 0
    for one in metadata:
        within = "" if card.metadata else one.name[: one.name.rfind("/") + 1]
        for table in each_table(card, [str(one.path)], [one.column, *named]):
            for row in table.to_pylist():
                name = _of_folder(folder, f"{within}{row[one.column]}")
                yield place, os.fsencode(same_name(name)), json.dumps(row)
                place += 1


def _of_folder(folder: Path, name: str) -> str:
    """The name of a file as the folder has it, which metadata may write as "./NAME", or as Windows does."""
    if "\\" in name and os.path.lexists(folder / name):
        return name
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _rows(card: Card, folder: Path, shown: Iterable[pa.Table], stamp: Stamp) -> Iterator[FileRow]:
    before = None
    for table in shown:
        for row in table.to_pylist():
            name, said = os.fsdecode(row["name"]), json.loads(row["said"] or "{}")
            path = folder / name
            if row["captions"] is None:
                yield FileRow(name, MISSING_FILE, {**said, "url": path.absolute().as_uri()})
                continue
            if is_image(name) and name != before:
                stamp.add((path.as_posix(), *_size_and_time(path)))
            before = name
            texts = texts_of({c: _caption(card, folder / c) for c in map(os.fsdecode, row["captions"])})
            yield FileRow(
                name, "" if is_image(name) else other_file(name), {**said, **texts, "url": path.absolute().as_uri()}
            )


def _read_each(card: Card, folder: Path, rows: Iterator[FileRow]) -> Iterator[Image]:
    for row in rows:
        yield (None, row.reason) if row.reason else _read(folder / row.name, card.limits.max_bytes)


def _read(path: Path, max_bytes: int) -> Image:
    try:
        if not path.exists():
            return None, "unreadable_file: gone, or a link to nothing"
        if not path.is_file():
            return None, "unreadable_file: neither a file nor a folder"
        if path.stat().st_size > max_bytes:
            return None, too_many_bytes(max_bytes)
        return path.read_bytes(), ""
    except OSError as error:
        return None, f"unreadable_file: {error.strerror}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a folder that may be listed, but not entered
        return False


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    except OSError:  # `_read` says why
        return 0, 0


def _caption(card: Card, path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= card.limits.max_bytes else b""
    except OSError as error:
        raise UserError(f"The file {path} of card '{card.name}' cannot be read: {error.strerror}.") from error
