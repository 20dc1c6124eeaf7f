"""Tar archives of image files, as webdataset has them: every member becomes a row, or is the caption of one.

One archive's names and captions are in memory at a time.
"""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pangu.data.card import Card
from pangu.data.ingest.file_names import captions_beside, is_caption, is_image, other_file, suffix_of
from pangu.data.ingest.image_files import FileRow, Image, ImageFiles, Stamp, texts_of, too_many_bytes
from pangu.data.ingest.source import unreadable
from pangu.data.table.store import file_system
from pangu.errors import UserError


def files_of_archives(card: Card, uris: Sequence[str]) -> ImageFiles:
    """Every file in some tar archives, in their order; the members of one archive may stand in any.

    Raises:
        UserError: one is missing or torn.
    """
    stamp = Stamp()
    found = ImageFiles(lambda rows: _read(card, uris, rows))
    found.write(row for uri in uris for row in _rows(card, uri))
    for uri in uris:
        filesystem, path = file_system(uri)
        stamp.add((uri, filesystem.info(path).get("size"), str(filesystem.info(path).get("mtime"))))
    found.stamp = stamp.digest()
    return found


def _rows(card: Card, uri: str) -> Iterator[FileRow]:
    """Each member of an archive but the captions that images have."""
    names, captions = list[str](), dict[str, bytes]()
    for name, data, _ in _members(card, uri, is_caption):
        names.append(name)
        if is_caption(name):
            captions[name] = data or b""
    beside = captions_beside(set(names))
    used = {caption for own in beside.values() for caption in own}
    times = Counter(map(_without_ending, filter(is_image, names)))
    for name in names:
        if name not in used:
            shown = _without_ending(name) if is_image(name) and times[_without_ending(name)] == 1 else name
            shown = shown.removeprefix("./").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            texts = texts_of({caption: captions[caption] for caption in beside.get(name, ())})
            yield FileRow(name, "" if is_image(name) else other_file(name), {"url": f"{uri}#{shown}", **texts})


def _read(card: Card, uris: Sequence[str], rows: Iterator[FileRow]) -> Iterator[Image]:
    """The bytes of each row: rows are the members in their order, of which captions were left out."""
    wanted = next(rows, None)
    for uri in uris:
        for name, data, why in _members(card, uri, is_image):
            if wanted is not None and name == wanted.name:
                yield (data, why) if is_image(name) else (None, wanted.reason)
                wanted = next(rows, None)


def _without_ending(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]


def _members(card: Card, uri: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None, str]]:
    """(name, bytes, "") of everything in an archive but its folders; (name, None, why) of what is not wanted or has no bytes."""
    filesystem, path = file_system(uri)
    max_bytes = card.limits.max_bytes
    try:
        with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined] # it would keep every one that it has been at
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
