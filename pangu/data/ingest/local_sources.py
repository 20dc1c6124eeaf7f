"""Sources that hold the images themselves: folders, webdataset archives, Parquet with bytes, other datasets.

They are read once, in order, into the same raw shards that downloads end in.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.card import Card
from pangu.data.images import SUFFIXES
from pangu.data.ingest.archive_files import files_of_archives
from pangu.data.ingest.download import Found, account_finished
from pangu.data.ingest.folder_files import files_of_folder
from pangu.data.ingest.image_files import ROWS_AT_ONCE, Image, ImageFiles, too_many_bytes
from pangu.data.ingest.raw import IMAGE_COLUMN, RawFolder
from pangu.data.ingest.source import each_table, expand, is_table, with_more_captions
from pangu.data.ingest.table_files import BadTable, as_text, concat, text_array
from pangu.data.table.delta import data_files, latest_version
from pangu.data.table.rows_file import RowsFile
from pangu.data.table.store import TableStore, addressed, file_system, unaddressed
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import Home, write_json

DATASET_PREFIX = "dataset://"
SHARD = pa.schema([("row", pa.int64()), ("error_message", pa.string()), (IMAGE_COLUMN, pa.binary())])


@dataclass(frozen=True)
class LocalImages:
    """A source that holds its images.

    tables: what it says about them, in order, some rows at a time. read: their bytes in the same order. stamp: changes whenever
    they may have. reasons: rows that are known to be no images, and why.
    """

    tables: Callable[[], Iterator[pa.Table]]
    read: Callable[[], Iterator[Image]]
    stamp: str
    reasons: Callable[[], Iterator[tuple[int, str]]] = lambda: iter(())

    @property
    def refused(self) -> Mapping[int, str]:
        """`reasons`, by row."""
        return dict(self.reasons())

    @property
    def table(self) -> pa.Table:
        """What the source says about all of them."""
        tables = list(self.tables())
        return concat(tables[0].column_names, tables)


def local_images(card: Card, home: Home) -> LocalImages | None:
    """The images of a card whose source holds them; None for tables of URLs.

    Raises:
        UserError: the source cannot be read, or has no image.
    """
    uri = card.source_uri(home)
    if card.source.startswith(DATASET_PREFIX):
        return _dataset(card, home)
    if uri.lower().endswith(".tar"):
        return _files(card, files_of_archives(card, expand(card, uri)), f"The archive {uri}")
    if card.columns.image is not None:
        return _parquet(card, expand(card, uri), card.columns.image)
    if "://" not in uri and Path(uri).is_dir() and not _is_of_tables(Path(uri)):
        return _files(card, files_of_folder(card, Path(uri)), f"The folder {uri}")
    return None


def _is_of_tables(folder: Path) -> bool:
    """Whether a folder holds tables, and no image that they could be about."""
    found = False
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES:
            return False
        found = found or is_table(path.relative_to(folder).as_posix())
    return found


def import_images(card: Card, raw: RawFolder, local: LocalImages, report: Reporter, found: Found) -> None:
    """Copy images into raw shards, each whole or not at all; an interrupted import goes on after the last one.

    found: takes each shard.

    Raises:
        UserError: the source changed while it was read.
    """
    expected, whole = raw.expected_rows(), set[int]()
    missing = set(account_finished(card, raw, expected, whole, found))
    images = local.read()
    done = 0
    for shard in range(len(expected)):
        taken = [(row, *image) for row, image in zip(sorted(expected[shard]), images, strict=False)]
        if shard in missing:
            _write_shard(raw, shard, taken, card.limits.max_bytes)
        done += expected.size(shard)
        report(Progress(stage="ingest", done=done, total=expected.total, unit="images"))
    if account_finished(card, raw, expected, whole, found):
        raise UserError(f"The source of card '{card.name}' changed while it was read; run the same command again.")


def _write_shard(raw: RawFolder, shard: int, taken: list[tuple[int, bytes | None, str]], max_bytes: int) -> None:
    raw.shards.mkdir(exist_ok=True)
    rows = []
    for row, data, message in taken:
        if data is not None and len(data) > max_bytes:
            data, message = None, too_many_bytes(max_bytes)
        rows.append({"row": row, "error_message": message, IMAGE_COLUMN: data})
    table = pa.Table.from_pylist(rows, schema=SHARD)
    TableStore(str(raw.shards)).write_parquet(raw.shard_file(shard).name, table, 64, compression="none")
    write_json(raw.stats_file(shard), {"count": len(rows)})


def _files(card: Card, found: ImageFiles, where: str) -> LocalImages:
    if not found.images:
        raise UserError(f"{where} of card '{card.name}' holds no image ({', '.join(SUFFIXES)}).")
    _check_fields(card, found.fields)
    next(_tables(card, found))  # what is no text is one sentence here, if it stands among the first
    return LocalImages(lambda: _tables(card, found), found.read, found.stamp, found.reasons)


def _parquet(card: Card, files: list[str], image_column: str, url_column: str | None = None) -> LocalImages:
    """Parquet files with a column of encoded images, or of Hugging Face's struct of bytes and path.

    url_column: what a row's URL is, in the files of a dataset's version.
    """
    named = [name for name in card.columns.model_dump(exclude={"url", "image"}).values() if name]

    def tables() -> Iterator[pa.Table]:
        if url_column:
            for table in with_more_captions(card, files, [*named, url_column]):
                urls = table[url_column]
                yield table.drop_columns([url_column]).append_column(card.columns.url, urls)
            return
        for file in files:
            yield from _numbered(file, each_table(card, [file], named), card.columns.url)

    def read() -> Iterator[Image]:
        for file in files:
            with RowsFile(addressed(file)) if url_column else _open_parquet(file) as source:
                for batch in source.iter_batches(64, columns=[image_column]):
                    for value in batch.column(0).to_pylist():
                        data = value["bytes"] if isinstance(value, dict) else value
                        yield (data, "") if isinstance(data, bytes) else (None, "missing_bytes")

    for file in () if url_column else files:
        next(each_table(card, [file], named), None)  # what cannot be read is one sentence here
        _check_images(card, file, image_column)
    return LocalImages(tables, read, _stamp(files, [_rows(file) for file in files]))


def _numbered(file: str, tables: Iterator[pa.Table], column: str) -> Iterator[pa.Table]:
    """Rows of a file with its name and their number there as the column."""
    start = 0
    for table in tables:
        names = [f"{file}#{row}" for row in range(start, start + table.num_rows)]
        yield table.append_column(column, pa.array(names, pa.string()))
        start += table.num_rows


def _check_images(card: Card, file: str, column: str) -> None:
    with _open_parquet(file) as source:
        if column not in source.schema_arrow.names:
            have = ", ".join(source.schema_arrow.names)
            raise UserError(f"The table {file} of card '{card.name}' has no column '{column}'; it has {have}.")


def _open_parquet(uri: str) -> pq.ParquetFile:
    filesystem, path = file_system(uri)
    return pq.ParquetFile(filesystem.open(path, "rb"), pre_buffer=False)


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


def _check_fields(card: Card, there: Collection[str]) -> None:
    """Raises UserError if no row has a column that the card names."""
    for column in _named(card):
        if not card.describes and column not in there:
            have = ", ".join(sorted(set(there) - {"url"})) or (
                "none; write what PICTURE.jpg shows into PICTURE.txt beside it, or let a model describe them, which "
                "`pangu new FOLDER --captioner MODEL` sets up"
            )
            raise UserError(f"No image of card '{card.name}' has a field '{column}'; they have {have}.")


def _tables(card: Card, found: ImageFiles) -> Iterator[pa.Table]:
    """Rows of fields as tables of text with the card's columns."""
    rows = found.rows()
    while some := [row.fields for row in islice(rows, ROWS_AT_ONCE)]:
        try:
            texts = {column: text_array([as_text(row.get(column)) for row in some]) for column in _named(card)}
        except BadTable as error:
            raise UserError(f"An image of card '{card.name}' holds {error} in a field that must hold text.") from error
        yield pa.table({**texts, card.columns.url: [row["url"] for row in some]})


def _named(card: Card) -> list[str]:
    """The columns of texts that the card names."""
    return [value for value in card.columns.model_dump(exclude={"image", "url"}).values() if value]


def _stamp(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
