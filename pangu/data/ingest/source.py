"""Tables that list images, of whatever format, as one Arrow table of rows with a card's columns."""

import glob
import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
FURTHER = (*MORE.values(), *KEYWORDS.values())
DIGESTED_ROWS = 65_536
"""The digest of a list depends on it."""
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


@dataclass
class Source:
    """A source while its rows are listed, and what was wrong with its text so far.

    start: the number of the first row of the table that is being listed. damaged: what texts are called, and their column -> how
    many are no text, and the row of the first.
    """

    card: Card
    uri: str
    start: int = 0
    damaged: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def warn(self) -> None:
        """Say once of the whole source how much of its text is none."""
        for (what, _), (count, first) in self.damaged.items():
            log.warning(
                "%d %s of %s (card '%s') hold bytes that are not UTF-8, or U+FFFD in their place, the first in row %d (counted "
                "from 0); they count as missing. Write the table as UTF-8 and ingest again.",
                count, what, self.uri, self.card.name, first,
            )  # fmt: skip


def listing(card: Card, uri: str, table: pa.Table) -> pa.Table:
    """The rows of any table that has the card's columns."""
    return pa.concat_tables(listings(card, uri, [table]))


def listings(card: Card, uri: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of tables below each other, one after the other in memory.

    Raises:
        UserError: there are no rows, or a column that the card names is missing or holds no text.
    """
    source = Source(card, uri)
    for table in tables:
        if table.num_rows:
            yield _listed(source, table)
            source.start += table.num_rows
    if not source.start:
        raise UserError(f"The table {uri} of card '{card.name}' has no rows; list at least one image URL.")
    source.warn()


def _listed(source: Source, table: pa.Table) -> pa.Table:
    card, columns = source.card, source.card.columns
    listed: dict[str, Any] = {"row": pa.array(range(source.start, source.start + table.num_rows), pa.int64())}
    for name in COLUMNS:
        if name.startswith("caption"):
            more = name.replace("caption", "more_captions")
            listed[name], listed[more] = _captions(source, table, getattr(columns, name))
        else:
            listed[name] = _text(source, table, getattr(columns, name))
    if columns.caption is not None:
        listed |= _by_language(listed, *_captions(source, table, columns.caption))
    for name in KEYWORDS.values():
        listed[name] = _keywords(source, table, getattr(columns, name))
    for name, otherwise in (("license", card.licence.name), ("style", card.style or "")):
        listed[name] = pc.if_else(pc.equal(listed[name], ""), otherwise, listed[name])
    return pa.table({name: listed[name] for name in LISTED.names}, schema=LISTED)


def content_digest(listed: pa.Table) -> str:
    """16 hex digits that depend on the listed rows and their order, not on the file format they came in."""
    said = Said()
    said.hear(listed)
    return digest_of([listed], said)


@dataclass
class Said:
    """Which of the columns that a list may lack any of its rows has."""

    columns: set[str] = field(default_factory=set)

    def hear(self, listed: pa.Table) -> None:
        """Look at some more rows, schema `LISTED`."""
        if "style" not in self.columns and pc.any(pc.not_equal(listed["style"], "")).as_py():
            self.columns.add("style")
        self.columns |= {name for name in FURTHER if listed[name].null_count < listed.num_rows}

    @property
    def lacking(self) -> list[str]:
        return [name for name in ("style", *FURTHER) if name not in self.columns]


def digest_of(tables: Iterable[pa.Table], said: Said) -> str:
    """As `content_digest`, of rows that come in parts of any size."""
    # A list without styles or keywords, or with one caption an image, keeps the digest, and the downloads, that it had before.
    digest, lacking = hashlib.sha256(), said.lacking
    for table in even_parts(tables, DIGESTED_ROWS):
        batch = table.drop_columns(lacking).combine_chunks()
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()[:16]


def even_parts(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in parts of so many each; the last may be shorter."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if (there := sum(part.num_rows for part in waiting)) >= rows:
            whole = pa.concat_tables(waiting)
            for start in range(0, there - there % rows, rows):
                yield whole.slice(start, rows)
            waiting = [whole.slice(there - there % rows)]
    if any(part.num_rows for part in waiting):
        yield pa.concat_tables(waiting)


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
    return concat(wanted, list(each_table(card, uris, wanted)))


def each_table(card: Card, uris: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """As `read_tables`, some rows at a time.

    Raises:
        UserError: as of `read_tables`.
    """
    wanted = list(dict.fromkeys(columns))
    for uri in uris:
        yield from _read(card, uri, wanted)


def with_more_captions(card: Card, files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of the files of a dataset, with lists where it has several captions of an image; its older versions have none."""
    further = {f"caption_{language}": more for language, more in MORE.items() if f"caption_{language}" in columns}
    further = {own: more for own, more in further.items() if all(more in _names(file) for file in files)}
    for table in each_table(card, files, [*columns, *further.values()]):
        for column, more in further.items():
            pairs = zip(table[column].to_pylist(), table[more].to_pylist(), strict=True)
            texts = text_array([[first, *others] if others else first for first, others in pairs])
            table = table.set_column(table.column_names.index(column), column, texts)
        yield table.drop_columns(list(further.values()))


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


def _read(card: Card, uri: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    suffix = suffix_of(uri) or next((one for one in LISTS if uri.lower().removesuffix(".gz").endswith(one)), None)
    if suffix is None:
        raise UserError(
            f"Card '{card.name}' names the source {uri}; it must end in {', '.join((*READERS, *LISTS))} (or .gz of it) or "
            f".tar, or be a folder of such tables or of images."
        )
    try:
        filesystem, path = file_system(uri)
        with filesystem.open(path, "rb", compression="gzip" if uri.lower().endswith(".gz") else None) as file:
            yield from (READERS | LISTS)[suffix](file, columns)
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


def _text(source: Source, table: pa.Table, column: str | None) -> pa.ChunkedArray:
    """A column as trimmed strings, null as "" ; a column the card does not name is all empty."""
    if column is None:
        return pa.chunked_array([pa.array([""] * table.num_rows, pa.string())])
    if column not in table.column_names:
        have = ", ".join(table.column_names)
        raise UserError(f"The table {source.uri} of card '{source.card.name}' has no column '{column}'; it has {have}.")
    try:
        return pc.utf8_trim_whitespace(pc.fill_null(table[column].cast(pa.string()), ""))
    except pa.ArrowException as error:
        kind = table[column].type
        raise UserError(
            f"Column '{column}' of {source.uri} (card '{source.card.name}') has type {kind}; it must hold text."
        ) from error


def _captions(source: Source, table: pa.Table, column: str | None) -> tuple[pa.ChunkedArray, pa.Array]:
    """The first caption of each row, "" where there is none, and further ones as `TEXTS`, null where there are none."""
    if column is None or column not in table.column_names or not pa.types.is_list(table[column].type):
        rows = np.arange(table.num_rows)
        return _caption(source, _text(source, table, column), rows, column or ""), pa.nulls(table.num_rows, TEXTS)
    found = _each_once(source, table[column].combine_chunks(), column, "captions")
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


def _keywords(source: Source, table: pa.Table, column: str | None) -> pa.Array:
    """The keywords of each row as `TEXTS`, null where there are none: what lies between separators, in a text or in a list."""
    if column is None:
        return pa.nulls(table.num_rows, TEXTS)
    if column in table.column_names and pa.types.is_list(table[column].type):
        texts = pa.array(["|".join(filter(None, words or ())) for words in table[column].to_pylist()], pa.string())
    else:
        texts = _text(source, table, column).combine_chunks()
    found = _each_once(source, pc.split_pattern_regex(texts, SEPARATORS), column, "keywords")
    return pa.array([words or None for words in found], TEXTS)


def _each_once(source: Source, lists: pa.ListArray, column: str, what: str) -> list[list[str]]:
    """The texts of each row that are any, cleaned, in their order."""
    texts = pc.fill_null(pc.list_flatten(lists), "")
    clean = iter(_caption(source, texts, pc.list_parent_indices(lists), column, what).to_pylist())
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
    return [list(dict.fromkeys(filter(None, islice(clean, length)))) for length in lengths]


def _caption(source: Source, texts: Any, rows: Any, column: str, what: str = "captions") -> Any:
    """Texts without what no reader sees, and empty where they are too long or hold bytes that are no text.

    rows: the place in its table of the row of each. what: they are called in a warning.
    """
    damaged = pc.match_substring(texts, UNREADABLE)
    if count := pc.sum(damaged).as_py():
        before, first = source.damaged.get(
            (what, column), (0, source.start + int(rows[pc.index(damaged, True).as_py()]))
        )
        source.damaged[what, column] = before + count, first
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, UNWRITTEN, " "))
    return pc.if_else(pc.or_(damaged, pc.greater(pc.utf8_length(clean), MAX_CAPTION)), "", clean)
