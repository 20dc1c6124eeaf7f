"""Tables that list images, of whatever format, as one Arrow table of rows with a card's columns."""

import glob
import hashlib
import logging
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.captions import KEYWORDS, MORE, language_of
from pangu.data.card import HOME_PREFIX, Card
from pangu.data.ingest.table_files import (
    TEXTS,
    UNREADABLE,
    BadTable,
    concat,
    read_coco,
    read_csv,
    read_jsonl,
    read_parquet,
    text_array,
)
from pangu.data.table.store import file_system
from pangu.errors import UserError

LISTED = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("caption_en", pa.string()),
        ("caption_zh", pa.string()),
        ("license", pa.string()),
        ("style", pa.string()),
        *((name, TEXTS) for name in MORE.values()),  # further captions, in their order; null where there are none
        *((name, TEXTS) for name in KEYWORDS.values()),  # likewise
    ]
)
COLUMNS = ("url", "caption_en", "caption_zh", "license", "style")
log = logging.getLogger(__name__)
READERS = {".parquet": read_parquet, ".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl}
LISTS = {".json": read_coco}
"""What is read where a card names the file itself: in a folder, a .json may be anything."""
SEPARATORS = r"[|,;\x{ff0c}\x{ff1b}\x{3001}]"
"""Between keywords: also the comma, the semicolon and the enumeration mark of Chinese."""
MAX_CAPTION = 4000
"""Characters; a longer caption is no caption but a page, and counts as missing."""
UNWRITTEN = r"[\s\x00-\x1f\x7f-\x9f\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}\x{feff}]+"
"""White space, control characters and marks of writing direction; the joiner inside emoji is none of these."""


def listing(card: Card, uri: str, table: pa.Table) -> pa.Table:
    """The rows of any table that has the card's columns."""
    if table.num_rows == 0:
        raise UserError(f"The table {uri} of card '{card.name}' has no rows; list at least one image URL.")
    columns = card.columns
    listed: dict[str, Any] = {"row": pa.array(range(table.num_rows), pa.int64())}
    for name in COLUMNS:
        if name.startswith("caption"):
            more = name.replace("caption", "more_captions")
            listed[name], listed[more] = _captions(card, uri, table, getattr(columns, name))
        else:
            listed[name] = _text(card, uri, table, getattr(columns, name))
    if columns.caption is not None:
        listed |= _by_language(listed, *_captions(card, uri, table, columns.caption))
    for name in KEYWORDS.values():
        listed[name] = _keywords(card, uri, table, getattr(columns, name))
    for name, otherwise in (("license", card.licence.name), ("style", card.style or "")):
        listed[name] = pc.if_else(pc.equal(listed[name], ""), otherwise, listed[name])
    return pa.table({name: listed[name] for name in LISTED.names}, schema=LISTED)


def content_digest(listed: pa.Table) -> str:
    """16 hex digits that depend on the listed rows and their order, not on the file format they came in."""
    # A list without styles or keywords, or with one caption an image, keeps the digest, and the downloads, that it had before.
    lacking = [] if pc.any(pc.not_equal(listed["style"], "")).as_py() else ["style"]
    lacking += [name for name in (*MORE.values(), *KEYWORDS.values()) if listed[name].null_count == listed.num_rows]
    listed = listed.drop_columns(lacking)
    digest = hashlib.sha256()
    for batch in listed.combine_chunks().to_batches(max_chunksize=65_536):
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()[:16]


def expand(card: Card, uri: str) -> list[str]:
    """The files that a URI names, sorted: itself, by the * that the card says, or as a folder of tables (shards, Spark).

    Raises:
        UserError: a pattern that matches nothing, or a folder without tables.
    """
    starred = "*" in card.source and ("://" in uri or not Path(uri).exists())
    try:
        filesystem, path = file_system(uri)
        if starred:
            said = path if "://" in uri else str(PurePath(card.source.removeprefix(HOME_PREFIX)))
            pattern = glob.escape(path.removesuffix(said)) + glob.escape(said).replace("[*]", "*")
            found = sorted(map(str, filesystem.glob(pattern)))
        elif not uri.startswith("http") and filesystem.isdir(path):
            found = sorted(file for file in map(str, filesystem.find(path)) if is_table(file.removeprefix(path)))
        else:
            return [uri]
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(card, uri, "files", error) from error
    if not found:
        raise UserError(f"No file matches {uri}, the source of card '{card.name}'; correct `source` or write them.")
    scheme = uri.partition("://")[0] + "://" if "://" in uri else ""
    return [scheme + path.removeprefix(scheme) for path in found]


def read_tables(card: Card, uris: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The asked columns of several files as one table of text, or of lists of text; see `pangu.data.ingest.table_files`.

    Raises:
        UserError: a file is missing or unreadable, or a column is missing, there twice, or holds no text.
    """
    wanted = list(dict.fromkeys(columns))
    return concat([_read(card, uri, wanted) for uri in uris])


def with_more_captions(card: Card, files: Sequence[str], table: pa.Table) -> pa.Table:
    """Rows of the files of a dataset, with lists where it has several captions of an image; its older versions have none."""
    for language, further in MORE.items():
        column = f"caption_{language}"
        if column in table.column_names and all(further in _names(file) for file in files):
            more = read_tables(card, files, [further])[further].to_pylist()
            pairs = zip(table[column].to_pylist(), more, strict=True)
            texts = text_array([[first, *others] if others else first for first, others in pairs])
            table = table.set_column(table.column_names.index(column), column, texts)
    return table


def _names(file: str) -> list[str]:
    filesystem, path = file_system(file)
    with filesystem.open(path, "rb") as source:
        return list(pq.read_schema(source).names)


def is_table(path: str) -> bool:
    """Whether a file inside a folder is one of its tables: neither hidden nor a marker such as Spark's `_SUCCESS`."""
    return suffix_of(path) is not None and not any(part.startswith((".", "_")) for part in path.split("/") if part)


def suffix_of(uri: str) -> str | None:
    """Which kind of table a file is by its name; None if it is none."""
    name = uri.lower().removesuffix(".gz")
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


def _read(card: Card, uri: str, columns: Sequence[str]) -> pa.Table:
    suffix = suffix_of(uri) or next((one for one in LISTS if uri.lower().removesuffix(".gz").endswith(one)), None)
    if suffix is None:
        raise UserError(
            f"Card '{card.name}' names the source {uri}; it must end in {', '.join((*READERS, *LISTS))} (or .gz of it) or "
            f".tar, or be a folder of such tables or of images."
        )
    try:
        filesystem, path = file_system(uri)
        with filesystem.open(path, "rb", compression="gzip" if uri.lower().endswith(".gz") else None) as file:
            return (READERS | LISTS)[suffix](file, columns)
    except FileNotFoundError as error:
        raise UserError(
            f"The table {uri} of card '{card.name}' does not exist; correct `source` or write it."
        ) from error
    except BadTable as error:
        raise UserError(f"The table {uri} of card '{card.name}' {error}.") from error
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError, ImportError) as error:
        raise unreadable(card, uri, suffix, error) from error


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


def _captions(card: Card, uri: str, table: pa.Table, column: str | None) -> tuple[pa.ChunkedArray, pa.Array]:
    """The first caption of each row, "" where there is none, and further ones as `TEXTS`, null where there are none."""
    if column is None or column not in table.column_names or not pa.types.is_list(table[column].type):
        rows = np.arange(table.num_rows)
        return _caption(card, uri, _text(card, uri, table, column), rows), pa.nulls(table.num_rows, TEXTS)
    found = _each_once(card, uri, table[column].combine_chunks(), "captions")
    return pa.array([one[0] if one else "" for one in found]), pa.array([one[1:] or None for one in found], TEXTS)


def _by_language(listed: dict[str, Any], firsts: Any, further: Any) -> dict[str, Any]:
    """Captions of either language, each behind those that its row has in it already."""
    texts = [[first, *(more or ())] for first, more in zip(firsts.to_pylist(), further.to_pylist(), strict=True)]
    found = {}
    for language, more in MORE.items():
        own = zip(listed[f"caption_{language}"].to_pylist(), listed[more].to_pylist(), texts, strict=True)
        all_of = [
            list(
                dict.fromkeys(
                    filter(None, [first, *(others or ()), *(t for t in new if (language_of(t) or "en") == language)])
                )
            )
            for first, others, new in own
        ]
        found[f"caption_{language}"] = pa.chunked_array(
            [pa.array([one[0] if one else "" for one in all_of], pa.string())]
        )
        found[more] = pa.array([one[1:] or None for one in all_of], TEXTS)
    return found


def _keywords(card: Card, uri: str, table: pa.Table, column: str | None) -> pa.Array:
    """The keywords of each row as `TEXTS`, null where there are none: what lies between separators, in a text or in a list."""
    if column is None:
        return pa.nulls(table.num_rows, TEXTS)
    if column in table.column_names and pa.types.is_list(table[column].type):
        texts = pa.array(["|".join(filter(None, words or ())) for words in table[column].to_pylist()], pa.string())
    else:
        texts = _text(card, uri, table, column).combine_chunks()
    found = _each_once(card, uri, pc.split_pattern_regex(texts, SEPARATORS), "keywords")
    return pa.array([words or None for words in found], TEXTS)


def _each_once(card: Card, uri: str, lists: pa.ListArray, what: str) -> list[list[str]]:
    """The texts of each row that are any, cleaned, in their order."""
    texts = pc.fill_null(pc.list_flatten(lists), "")
    clean = iter(_caption(card, uri, texts, pc.list_parent_indices(lists), what).to_pylist())
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
    return [list(dict.fromkeys(filter(None, islice(clean, length)))) for length in lengths]


def _caption(card: Card, uri: str, texts: Any, rows: Any, what: str = "captions") -> Any:
    """Texts without what no reader sees, and empty where they are too long or hold bytes that are no text.

    rows: the number of the row of each. what: they are called in a warning.
    """
    damaged = pc.match_substring(texts, UNREADABLE)
    if count := pc.sum(damaged).as_py():
        log.warning(
            "%d %s of %s (card '%s') hold bytes that are not UTF-8, or U+FFFD in their place, the first in row %d (counted "
            "from 0); they count as missing. Write the table as UTF-8 and ingest again.",
            count, what, uri, card.name, rows[pc.index(damaged, True).as_py()],
        )  # fmt: skip
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, UNWRITTEN, " "))
    return pc.if_else(pc.or_(damaged, pc.greater(pc.utf8_length(clean), MAX_CAPTION)), "", clean)
