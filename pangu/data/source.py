"""The URL table of a card, whatever its format, as one Arrow table of listed rows. Knows nothing of downloads."""

import hashlib

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pangu.data.card import Card
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
    ".parquet": lambda file: pq.read_table(file),
    ".csv": lambda file: pyarrow.csv.read_csv(file),
    ".jsonl": lambda file: pyarrow.json.read_json(file),
}


def read_source(card: Card, home: Home) -> pa.Table:
    """The listed rows in table order, schema `LISTED`; captions a table does not have are empty strings.

    Raises:
        UserError: the table is missing, unreadable, empty, or lacks a column that the card names.
    """
    uri = card.source_uri(home)
    table = _read(card, uri)
    if table.num_rows == 0:
        raise UserError(f"The table {uri} of card '{card.name}' has no rows; list at least one image URL.")
    columns = card.columns
    text = {name: _text(card, uri, table, getattr(columns, name)) for name in LISTED.names[1:]}
    licence = pc.if_else(pc.equal(text["license"], ""), card.licence.name, text["license"])
    style = pc.if_else(pc.equal(text["style"], ""), card.style or "", text["style"])
    listed = {"row": pa.array(range(table.num_rows), pa.int64()), **text, "license": licence, "style": style}
    return pa.table(listed, schema=LISTED)


def content_digest(listed: pa.Table) -> str:
    """16 hex digits that depend on the listed rows and their order, not on the file format they came in."""
    if not pc.any(pc.not_equal(listed["style"], "")).as_py():
        listed = listed.drop_columns(
            ["style"]
        )  # a list without styles keeps the digest, and the downloads, it had before
    digest = hashlib.sha256()
    for batch in listed.combine_chunks().to_batches(max_chunksize=65_536):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()[:16]


def _read(card: Card, uri: str) -> pa.Table:
    suffix = next((s for s in READERS if uri.removesuffix(".gz").endswith(s)), None)
    if suffix is None:
        raise UserError(
            f"Card '{card.name}' names the source {uri}; it must end in {', '.join(READERS)} (or .gz of it)."
        )
    try:
        with fsspec.open(uri, "rb", compression="infer") as file:
            return READERS[suffix](file)
    except FileNotFoundError as error:
        raise UserError(
            f"The table {uri} of card '{card.name}' does not exist; correct `source` or write it."
        ) from error
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"The table {uri} of card '{card.name}' cannot be read as {suffix}: {what}.") from error


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
