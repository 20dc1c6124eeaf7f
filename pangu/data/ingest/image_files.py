"""Folders and tar archives of image files: every file of them becomes a row, or is the caption of one.

What belongs together is decided by `pangu.data.ingest.file_names`. Files are listed once and read once, in the same order.
"""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pangu.data.card import Card
from pangu.data.ingest.file_names import captions_beside, is_caption, is_image, other_file, same_name, suffix_of
from pangu.data.ingest.source import READERS, read_tables, unreadable
from pangu.data.table.store import file_system
from pangu.errors import UserError

FILE_NAME = "file_name"
"""Column of a folder's metadata file that names the image, as in Hugging Face's image folders."""
TEXT = "txt"
"""Name of the caption in NAME.txt beside an image."""
MISSING_FILE = "missing_file"
Image = tuple[bytes | None, str]
"""Bytes, or None and why there are none."""


@dataclass(frozen=True)
class ImageFiles:
    """The rows of a source of files.

    rows: fields of each, its `url` among them. reasons: of those rows that are no images, by their place. read: the bytes of all,
    in order. stamps: what changes whenever the images may have.
    """

    rows: list[dict[str, Any]]
    reasons: dict[int, str]
    read: Callable[[], Iterator[Image]]
    stamps: list[tuple[str, Any, Any]]


def files_of_folder(card: Card, folder: Path) -> ImageFiles:
    """Every file below a folder, in the order of their paths, then what its metadata names and is not there.

    Raises:
        UserError: a folder or the metadata cannot be read.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(walk(card, folder))}
    used, metadata = _metadata(card, paths)
    beside = captions_beside([name for name, path in paths.items() if is_image(name) or _is_file(path)])
    used |= {name for names in beside.values() for name in names}
    rows, reasons, places = list[dict[str, Any]](), dict[int, str](), list[Path | None]()
    for name in [name for name in paths if name not in used]:
        if not is_image(name):
            reasons[len(rows)] = other_file(name)
        texts = texts_of({caption: _caption(card, paths[caption]) for caption in beside.get(name, ())})
        for said in metadata.pop(same_name(name), [{}]):
            rows.append({**said, **texts, "url": paths[name].absolute().as_uri()})
            places.append(paths[name])
    for name, saying in metadata.items():
        for said in saying:
            reasons[len(rows)] = MISSING_FILE
            rows.append({**said, "url": (folder / name).absolute().as_uri()})
            places.append(None)
    stamps = [(path.as_posix(), *_size_and_time(path)) for name, path in paths.items() if is_image(name)]

    def read() -> Iterator[Image]:
        for row, path in enumerate(places):
            yield (None, reasons[row]) if path is None or row in reasons else _read(path, card.limits.max_bytes)

    return ImageFiles(rows, reasons, read, stamps)


def files_of_archives(card: Card, uris: Sequence[str]) -> ImageFiles:
    """Every file in some tar archives, in their order; the members of one archive may stand in any.

    Raises:
        UserError: one is missing or torn.
    """
    rows, reasons, listed = list[dict[str, Any]](), dict[int, str](), list[_Archive]()
    for uri in uris:
        archive = _Archive.of(card, uri)
        for name, fields in archive.rows():
            if not is_image(name):
                reasons[len(rows)] = other_file(name)
            rows.append(fields)
        listed.append(archive)
    stamps = list[tuple[str, Any, Any]]()
    for uri in uris:
        filesystem, path = file_system(uri)
        stamps.append((uri, filesystem.info(path).get("size"), str(filesystem.info(path).get("mtime"))))

    def read() -> Iterator[Image]:
        for archive in listed:
            yield from archive.read(card)

    return ImageFiles(rows, reasons, read, stamps)


def walk(card: Card, folder: Path) -> Iterator[Path]:
    """Every file below a folder, whatever it is; links to folders are followed, once."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(
            f"The folder {error.filename} of card '{card.name}' cannot be read: {error.strerror}."
        ) from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders.sort()
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in files)


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


def too_many_bytes(max_bytes: int) -> str:
    return f"too_many_bytes: more than {max_bytes}"


def _metadata(card: Card, paths: Mapping[str, Path]) -> tuple[set[str], dict[str, list[dict[str, Any]]]]:
    """The names of the files that say what images show, and the rows in which they speak of each image."""
    named = [name for name in card.columns.model_dump(exclude={"url", "image"}).values() if name]
    used, said = set[str](), dict[str, list[dict[str, Any]]]()
    for name, path, column in _metadata_files(card, paths):
        used.add(name)
        within = "" if card.metadata else name[: name.rfind("/") + 1]
        for row in read_tables(card, [str(path)], [column, *named]).to_pylist():
            file = f"{within}{row[column]}"
            if file not in paths:  # "./NAME", or as Windows writes it
                file = PurePosixPath(file.replace("\\", "/")).as_posix()
            said.setdefault(same_name(file), []).append(row)
    return used, said


def _metadata_files(card: Card, paths: Mapping[str, Path]) -> Iterator[tuple[str, Path, str]]:
    """(name, path, column of file names) of the card's own table, or of metadata.parquet, .csv or .jsonl of each folder."""
    if (own := card.metadata_file()) is not None and card.metadata is not None:
        inside = next((name for name, path in paths.items() if _is_same(path, own)), "")
        yield inside, own, card.metadata.file_name
        return
    folders = set[str]()
    for suffix in READERS:
        for name, path in paths.items():
            folder, _, base = name.rpartition("/")
            if base.lower() == f"metadata{suffix}" and folder not in folders and _is_file(path):
                folders.add(folder)
                yield name, path, FILE_NAME


def _is_same(path: Path, other: Path) -> bool:
    return path.name == other.name and os.path.realpath(path) == os.path.realpath(other)


def texts_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the .txt and the .json beside an image say."""
    found: dict[str, Any] = {}
    for name, data in files.items():
        found |= {TEXT: data.decode("utf-8", errors="replace")} if suffix_of(name) == ".txt" else _facts(data)
    return found


def _facts(data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


@dataclass(frozen=True)
class _Archive:
    """A tar archive after one reading: its members in order, the bytes of captions, and which captions an image has."""

    uri: str
    names: list[str]
    captions: dict[str, bytes]
    beside: dict[str, list[str]]

    @classmethod
    def of(cls, card: Card, uri: str) -> "_Archive":
        names, captions = list[str](), dict[str, bytes]()
        for name, data, _ in _members(card, uri, is_caption):
            names.append(name)
            if is_caption(name):
                captions[name] = data or b""
        return cls(uri, names, captions, captions_beside(set(names)))

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, fields) of each member but the captions that images have."""
        used = self._used()
        times = Counter(map(_without_ending, filter(is_image, self.names)))
        for name in self.names:
            if name not in used:
                shown = _without_ending(name) if is_image(name) and times[_without_ending(name)] == 1 else name
                shown = shown.removeprefix("./").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                texts = texts_of({caption: self.captions[caption] for caption in self.beside.get(name, ())})
                yield name, {"url": f"{self.uri}#{shown}", **texts}

    def read(self, card: Card) -> Iterator[Image]:
        """The bytes of each of `rows`."""
        used = self._used()
        for name, data, why in _members(card, self.uri, is_image):
            if name not in used:
                yield (data, why) if is_image(name) else (None, other_file(name))

    def _used(self) -> Collection[str]:
        return {caption for captions in self.beside.values() for caption in captions}


def _without_ending(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]


def _members(card: Card, uri: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None, str]]:
    """(name, bytes, "") of everything in an archive but its folders; (name, None, why) of what is not wanted or has no bytes."""
    filesystem, path = file_system(uri)
    max_bytes = card.limits.max_bytes
    try:
        with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isfile():
                    yield member.name, None, "unreadable_file: a link or a device"
                elif member.size > max_bytes:
                    yield member.name, None, too_many_bytes(max_bytes)
                elif wanted(member.name):
                    content = archive.extractfile(member)
                    yield member.name, content.read() if content else b"", ""
                else:
                    yield member.name, None, ""
    except FileNotFoundError as error:
        raise UserError(f"The archive {uri} of card '{card.name}' does not exist; correct `source`.") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise unreadable(card, uri, "a tar archive", error) from error
