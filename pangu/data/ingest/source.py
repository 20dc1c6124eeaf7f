"""What a card's source lists, whatever its format, as one Arrow table of rows. Knows nothing of downloads."""

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pangu.data.card import HOME_PREFIX, Card
from pangu.data.table.store import file_system
from pangu.errors import UserError
from pangu.storage import Home

LISTED = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("caption_en", pa.string()),
        ("caption_zh", pa.string()),
        ("license", pa.string()),
        ("style", pa.string()),
    ]
)
READERS = {
    ".parquet": lambda file, columns: pq.ParquetFile(file).read(columns),
    ".csv": lambda file, columns: pyarrow.csv.read_csv(file),
    ".jsonl": lambda file, columns: pyarrow.json.read_json(file),
}
MAX_CAPTION = 4000
"""Characters; a longer caption is no caption but a page, and counts as missing."""
UNWRITTEN = r"[\s\x00-\x1f\x7f-\x9f\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}\x{feff}]+"
"""White space, control characters and marks of writing direction; the joiner inside emoji is none of these."""


def read_source(card: Card, home: Home) -> pa.Table:
    """The listed rows in the source's order, schema `LISTED`; captions it does not have are empty strings.

    Raises:
        UserError: the source is missing, unreadable, empty, or lacks a column that the card names.
    """
    from pangu.data.ingest.local_sources import local_images

    uri, local = card.source_uri(home), local_images(card, home)
    if local is not None:
        return listing(card, uri, local.table)
    needed = [name for name in card.columns.model_dump(exclude={"image"}).values() if name]
    return listing(card, uri, read_tables(card, expand(card, uri), needed))


def listing(card: Card, uri: str, table: pa.Table) -> pa.Table:
    """The rows of any table that has the card's columns."""
    if table.num_rows == 0:
        raise UserError(f"The table {uri} of card '{card.name}' has no rows; list at least one image URL.")
    columns = card.columns
    text = {name: _text(card, uri, table, getattr(columns, name)) for name in LISTED.names[1:]}
    for name in ("caption_en", "caption_zh"):
        text[name] = _caption(text[name])
    licence = pc.if_else(pc.equal(text["license"], ""), card.licence.name, text["license"])
    style = pc.if_else(pc.equal(text["style"], ""), card.style or "", text["style"])
    listed = {"row": pa.array(range(table.num_rows), pa.int64()), **text, "license": licence, "style": style}
    return pa.table(listed, schema=LISTED)


def content_digest(listed: pa.Table) -> str:
    """16 hex digits that depend on the listed rows and their order, not on the file format they came in."""
    if not pc.any(pc.not_equal(listed["style"], "")).as_py():
        # A list without styles keeps the digest, and the downloads, that it had before there were any.
        listed = listed.drop_columns(["style"])
    digest = hashlib.sha256()
    for batch in listed.combine_chunks().to_batches(max_chunksize=65_536):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()[:16]


def expand(card: Card, uri: str) -> list[str]:
    """The files that a URI names, itself or by the * that the card says, sorted.

    Raises:
        UserError: a pattern that matches nothing.
    """
    if "*" not in card.source or ("://" not in uri and Path(uri).exists()):
        return [uri]
    try:
        filesystem, path = file_system(uri)
        said = path if "://" in uri else str(PurePath(card.source.removeprefix(HOME_PREFIX)))
        pattern = glob.escape(path.removesuffix(said)) + glob.escape(said).replace("[*]", "*")
        found = sorted(map(str, filesystem.glob(pattern)))
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(card, uri, "files", error) from error
    if not found:
        raise UserError(f"No file matches {uri}, the source of card '{card.name}'; correct `source` or write them.")
    scheme = uri.partition("://")[0] + "://" if "://" in uri else ""
    return [scheme + path.removeprefix(scheme) for path in found]


def read_tables(card: Card, uris: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The asked columns of several files as one table.

    Raises:
        UserError: a file is missing or unreadable, lacks a column, or has one of another type than the file before it.
    """
    tables = [_read(card, uri, columns) for uri in uris]
    for column in columns:
        kinds = {uri: table.schema.field(column).type for uri, table in zip(uris, tables, strict=True)}
        first = next(iter(kinds))
        for uri, kind in kinds.items():
            if kind != kinds[first] and not (pa.types.is_null(kind) or pa.types.is_null(kinds[first])):
                raise UserError(
                    f"Column '{column}' of {uri} (card '{card.name}') has type {kind}, but {kinds[first]} in {first}; "
                    f"write all files with one type."
                )
    return pa.concat_tables(tables, promote_options="permissive")


def suffix_of(uri: str) -> str | None:
    """Which kind of table a file is by its name; None if it is none."""
    return next((suffix for suffix in READERS if uri.removesuffix(".gz").endswith(suffix)), None)


def _read(card: Card, uri: str, columns: Sequence[str]) -> pa.Table:
    suffix = suffix_of(uri)
    if suffix is None:
        raise UserError(
            f"Card '{card.name}' names the source {uri}; it must end in {', '.join(READERS)} (or .gz of it) or .tar, or be "
            f"a folder of images."
        )
    try:
        filesystem, path = file_system(uri)
        with filesystem.open(path, "rb", compression="gzip" if uri.endswith(".gz") else None) as file:
            present = pq.read_schema(file).names if suffix == ".parquet" else None
            table = READERS[suffix](file, [name for name in columns if name in present] if present else None)
    except FileNotFoundError as error:
        raise UserError(
            f"The table {uri} of card '{card.name}' does not exist; correct `source` or write it."
        ) from error
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        raise unreadable(card, uri, suffix, error) from error
    for column in columns:
        if column not in table.column_names:
            have = ", ".join(present or table.column_names)
            raise UserError(f"The table {uri} of card '{card.name}' has no column '{column}'; it has {have}.")
    return table.select(list(dict.fromkeys(columns)))


def unreadable(card: Card, uri: str, what: str, error: Exception) -> UserError:
    """The sentence for a source that is there and cannot be read."""
    why = " ".join(str(error).split())[:200]
    return UserError(f"The table {uri} of card '{card.name}' cannot be read as {what}: {why}.")


def _text(card: Card, uri: str, table: pa.Table, column: str | None) -> pa.ChunkedArray:
    """A column as trimmed strings, null as "" ; a column the card does not name is all empty."""
    if column is None:
        return pa.chunked_array([pa.array([""] * table.num_rows, pa.string())])
    if column not in table.column_names:
        have = ", ".join(table.column_names)
        raise UserError(f"The table {uri} of card '{card.name}' has no column '{column}'; it has {have}.")
    try:
        return pc.utf8_trim_whitespace(pc.fill_null(table[column].cast(pa.string()), ""))
    except pa.ArrowException as error:
        kind = table[column].type
        raise UserError(
            f"Column '{column}' of {uri} (card '{card.name}') has type {kind}; it must hold text."
        ) from error


def _caption(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without what no reader sees, and empty where it is too long."""
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, UNWRITTEN, " "))
    return pc.if_else(pc.greater(pc.utf8_length(clean), MAX_CAPTION), "", clean)
