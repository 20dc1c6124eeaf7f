"""Sources that hold the images themselves: folders, webdataset archives, Parquet with bytes, other datasets.

They are read once, in order, into the same raw shards that downloads end in. Knows nothing of URLs or of what follows.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.card import Card
from pangu.data.ingest.download import account_finished
from pangu.data.ingest.raw import IMAGE_COLUMN, RawFolder, RowState
from pangu.data.ingest.source import READERS, expand, read_tables, unreadable
from pangu.data.table.delta import data_files, latest_version
from pangu.data.table.store import TableStore, file_system, unaddressed
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import Home, write_json

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
DATASET_PREFIX = "dataset://"
FILE_NAME = "file_name"
"""Column of a folder's metadata file that names the image, as in Hugging Face's image folders."""
TEXT = "txt"
"""Name of the caption in NAME.txt beside an image."""
SHARD = pa.schema([("row", pa.int64()), ("error_message", pa.string()), (IMAGE_COLUMN, pa.binary())])
Image = tuple[bytes | None, str]
"""Bytes, or None and why there are none."""


@dataclass(frozen=True)
class LocalImages:
    """A source that holds its images.

    table: what it says about them, in order. read: their bytes in the same order. stamp: changes whenever they may have.
    """

    table: pa.Table
    read: Callable[[], Iterator[Image]]
    stamp: str


def local_images(card: Card, home: Home) -> LocalImages | None:
    """The images of a card whose source holds them; None for tables of URLs.

    Raises:
        UserError: the source cannot be read, or has no image.
    """
    uri = card.source_uri(home)
    if card.source.startswith(DATASET_PREFIX):
        return _dataset(card, home)
    if uri.endswith(".tar"):
        return _archives(card, expand(card, uri))
    if card.columns.image is not None:
        return _parquet(card, expand(card, uri), card.columns.image)
    return _folder(card, Path(uri)) if "://" not in uri and Path(uri).is_dir() else None


def import_images(card: Card, raw: RawFolder, local: LocalImages, report: Reporter) -> dict[int, RowState]:
    """Copy images into raw shards, each whole or not at all; an interrupted import goes on after the last one.

    Raises:
        UserError: the source changed while it was read.
    """
    expected, states = raw.expected_rows(), dict[int, RowState]()
    missing = set(account_finished(card, raw, expected, states))
    images = local.read()
    done = 0
    for shard, rows in enumerate(expected):
        taken = [(row, *image) for row, image in zip(sorted(rows), images, strict=False)]
        if shard in missing:
            _write_shard(raw, shard, taken, card.limits.max_bytes)
        done += len(rows)
        report(Progress(stage="ingest", done=done, total=sum(map(len, expected)), unit="images"))
    if account_finished(card, raw, expected, states):
        raise UserError(f"The source of card '{card.name}' changed while it was read; run the same command again.")
    return states


def _write_shard(raw: RawFolder, shard: int, taken: list[tuple[int, bytes | None, str]], max_bytes: int) -> None:
    raw.shards.mkdir(exist_ok=True)
    rows = []
    for row, data, message in taken:
        if data is not None and len(data) > max_bytes:
            data, message = None, f"too_many_bytes: more than {max_bytes}"
        rows.append({"row": row, "error_message": message, IMAGE_COLUMN: data})
    table = pa.Table.from_pylist(rows, schema=SHARD)
    TableStore(str(raw.shards)).write_parquet(raw.shard_file(shard).name, table, 64, compression="none")
    write_json(raw.stats_file(shard), {"count": len(rows)})


def _folder(card: Card, folder: Path) -> LocalImages:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"The folder {folder} of card '{card.name}' holds no image ({', '.join(SUFFIXES)}).")
    metadata = _metadata(card, folder)
    rows = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        rows.append({**metadata.get(name, {}), **_beside(path), "url": path.absolute().as_uri()})
    stamps = [(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]

    def read() -> Iterator[Image]:
        for path in paths:
            try:
                yield path.read_bytes(), ""
            except OSError as error:
                yield None, f"unreadable_file: {error.strerror}"

    return LocalImages(_table(card, rows), read, _stamp(stamps))


def _metadata(card: Card, folder: Path) -> dict[str, dict[str, Any]]:
    """What metadata.parquet, .csv or .jsonl says of each file of the folder."""
    for suffix in READERS:
        if (file := folder / f"metadata{suffix}").is_file():
            named = [name for name in card.columns.model_dump(exclude={"url", "image"}).values() if name]
            rows = read_tables(card, [str(file)], [FILE_NAME, *named]).to_pylist()
            return {str(row[FILE_NAME]): row for row in rows}
    return {}


def _beside(path: Path) -> dict[str, Any]:
    """What NAME.txt and NAME.json beside an image say."""
    found: dict[str, Any] = {}
    if (text := path.with_suffix(".txt")).is_file():
        found[TEXT] = text.read_text(encoding="utf-8", errors="replace")
    if (facts := path.with_suffix(".json")).is_file():
        found |= _facts(facts.read_bytes())
    return found


def _facts(data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _archives(card: Card, uris: list[str]) -> LocalImages:
    """Members of one name before its first dot are one sample: the image, NAME.txt and NAME.json."""
    rows = [fields for uri in uris for fields, _ in _samples(card, uri, card.limits.max_bytes, want_image=False)]
    stamps = []
    for uri in uris:
        filesystem, path = file_system(uri)
        stamps.append((uri, filesystem.info(path).get("size"), str(filesystem.info(path).get("mtime"))))

    def read() -> Iterator[Image]:
        for uri in uris:
            for _, image in _samples(card, uri, card.limits.max_bytes, want_image=True):
                yield image

    return LocalImages(_table(card, rows), read, _stamp(stamps))


def _samples(card: Card, uri: str, max_bytes: int, want_image: bool) -> Iterator[tuple[dict[str, Any], Image]]:
    name, fields, image = "", dict[str, Any](), None
    for member, data in _members(card, uri, max_bytes, want_image):
        path = PurePosixPath(member)
        stem, _, suffix = path.name.partition(".")
        if (whole := f"{path.parent}/{stem}") != name:
            if image is not None:
                yield fields, image
            name, fields, image = whole, {"url": f"{uri}#{whole.removeprefix('./')}"}, None
        suffix = suffix.lower()
        if f".{suffix}" in SUFFIXES:
            image = (data, "") if data is not None else (None, f"too_many_bytes: more than {max_bytes}")
        elif suffix == TEXT:
            fields[TEXT] = (data or b"").decode("utf-8", errors="replace")
        elif suffix == "json":
            fields |= _facts(data or b"")
    if image is not None:
        yield fields, image


def _members(card: Card, uri: str, max_bytes: int, want_image: bool) -> Iterator[tuple[str, bytes | None]]:
    """Name and bytes of every file of an archive; None for what is too large, b"" for images that are not wanted."""
    filesystem, path = file_system(uri)
    try:
        with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                is_image = member.name.lower().endswith(SUFFIXES)
                if member.size > max_bytes:
                    yield member.name, None
                elif is_image and not want_image:
                    yield member.name, b""
                else:
                    content = archive.extractfile(member)
                    yield member.name, content.read() if content else None
    except FileNotFoundError as error:
        raise UserError(f"The archive {uri} of card '{card.name}' does not exist; correct `source`.") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise unreadable(card, uri, "a tar archive", error) from error


def _parquet(card: Card, files: list[str], image_column: str, url_column: str | None = None) -> LocalImages:
    """Parquet files with a column of encoded images, or of Hugging Face's struct of bytes and path."""
    named = [name for name in card.columns.model_dump(exclude={"url", "image"}).values() if name]
    table = read_tables(card, files, [*named, *([url_column] if url_column else [])])
    if url_column:
        urls = table[url_column].to_pylist()
        table = table.drop_columns([url_column])
    else:
        urls = [f"{file}#{row}" for file in files for row in range(_rows(file))]

    def read() -> Iterator[Image]:
        for file in files:
            with _open_parquet(file) as source:
                for batch in source.iter_batches(64, columns=[image_column]):
                    for value in batch.column(0).to_pylist():
                        data = value["bytes"] if isinstance(value, dict) else value
                        yield (data, "") if isinstance(data, bytes) else (None, "missing_bytes")

    for file in files:
        _check_images(card, file, image_column)
    table = table.append_column(card.columns.url, pa.array(urls, pa.string()))
    return LocalImages(table, read, _stamp(files, [_rows(file) for file in files]))


def _check_images(card: Card, file: str, column: str) -> None:
    with _open_parquet(file) as source:
        if column not in source.schema_arrow.names:
            have = ", ".join(source.schema_arrow.names)
            raise UserError(f"The table {file} of card '{card.name}' has no column '{column}'; it has {have}.")


def _open_parquet(uri: str) -> pq.ParquetFile:
    filesystem, path = file_system(uri)
    return pq.ParquetFile(filesystem.open(path, "rb"))


def _rows(file: str) -> int:
    with _open_parquet(file) as source:
        return int(source.metadata.num_rows)


def _dataset(card: Card, home: Home) -> LocalImages:
    """The originals of another dataset: its upscaled rows are no images that anybody photographed at that size."""
    name, _, version = card.source.removeprefix(DATASET_PREFIX).partition("@")
    if version and not version.isdigit():
        raise UserError(f"Card '{card.name}' names the source {card.source}; it must be dataset://NAME@VERSION.")
    pinned = int(version) if version else latest_version(home, name)
    files = [unaddressed(file) for file in data_files(home, name, pinned, upscaled=False)]
    return _parquet(card, files, "image", "source_url")


def _table(card: Card, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of fields as a table of text with the card's columns; those that no row has are an error."""
    named = {name: value for name, value in card.columns.model_dump(exclude={"image", "url"}).items() if value}
    for column in named.values():
        if not any(column in row for row in rows):
            have = ", ".join(sorted({name for row in rows for name in row} - {"url"})) or "none"
            raise UserError(f"No image of card '{card.name}' has a field '{column}'; they have {have}.")
    texts = {column: [_as_text(row.get(column)) for row in rows] for column in named.values()}
    return pa.table({**texts, card.columns.url: [row["url"] for row in rows]})


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def _stamp(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
