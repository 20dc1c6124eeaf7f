"""Files of tables as columns of text: what a file says, never what a reader guesses a value to be.

A value is read whole and as it is written: 007 stays 007, NA stays NA, and neither the size of a file nor the rows beside it
change it. Bytes that are not UTF-8 become U+FFFD.
"""

import codecs
import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.ingest.coco_list import coco_rows

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
Text = str | list[str | None] | None
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What stands in text for bytes that are none."""
SURROGATES = re.compile("[\ud800-\udfff]+")
"""Python's place holders for bytes that are no UTF-8, and halves of pairs that JSON spelt by themselves."""
DELIMITERS = ",;\t"
ROWS_AT_ONCE = 65_536
BUFFER_BYTES = 1 << 20


class BadTable(ValueError):
    """A file that is not the table its name says; the message goes on from "the table": "has no column ..."."""


def read_parquet(file: IO[bytes], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Each asked column as `TEXT`, or as `TEXTS` where it holds lists, some rows at a time.

    Raises:
        BadTable: a column is missing, there twice, or holds neither text nor what can be written as text.
    """
    # In a buffer of its own, a column of a row group is read page by page, not whole.
    with pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False) as source:
        _check_names(source.schema_arrow.names, columns)
        for batch in source.iter_batches(ROWS_AT_ONCE, columns=columns):
            found = pa.table(batch)
            yield pa.table({name: _column(name, found[name]) for name in columns})


def read_csv(file: IO[bytes], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Each asked column as `TEXT`, of a file whose fields lie between commas, semicolons or tabs: those that its first line has.

    Raises:
        BadTable: a column is missing or there twice, or a record is not closed or not as long as the first line.
    """
    text, delimiter = _open_csv(file, columns)
    try:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        records = _records(reader)
        names = [name.strip() for name in next(records, [])]
        _check_names(names, columns)
        places = [names.index(name) for name in columns]
        yield from _tables(columns, ([record[at] for at in places] for record in records))
    finally:
        text.detach()


def _open_csv(file: IO[bytes], columns: Sequence[str]) -> tuple[io.TextIOWrapper, str]:
    """The text of a file, to be detached from it, and what lies between its fields."""
    start = file.read(3)
    encoding = "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    file.seek(0)
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
    header = text.readline()
    delimiter = max(DELIMITERS, key=lambda mark: _known(header, mark, columns))
    text.seek(0)
    return text, delimiter


def _known(header: str, delimiter: str, columns: Sequence[str]) -> tuple[int, int]:
    """How many of the columns a first line has if it is cut at `delimiter`, and into how many fields that cuts it."""
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error:
        return 0, 0
    return len(set(names) & set(columns)), len(names)


def _records(reader: Any) -> Iterator[list[str]]:
    """The records of a file, all as long as the first; empty lines are none."""
    length = 0
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadTable(f"holds a broken record that begins in line {line} ({error})") from error
        if not record:
            continue
        length = length or len(record)
        if len(record) != length:
            raise BadTable(f"has {length} columns, but {len(record)} fields in the record that begins in line {line}")
        yield record


def read_jsonl(file: IO[bytes], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Each asked field as `TEXT`, or as `TEXTS` where any of some rows has a list there; numbers as they are written.

    Raises:
        BadTable: a line is not a JSON object or holds an object in an asked field, or no line has such a field.
    """
    names: dict[str, None] = {}
    yield from _tables(columns, _fields(file, columns, names))
    _check_names(list(names), columns)


def _fields(file: IO[bytes], columns: Sequence[str], names: dict[str, None]) -> Iterator[list[Any]]:
    """The asked fields of each line; `names` learns the names of all fields."""
    for number, row in _objects(file, names):
        try:
            yield [as_text(row.get(column)) for column in columns]
        except BadTable as error:
            raise BadTable(f"holds {error} in line {number}, in a field that must hold text") from error


def _objects(file: IO[bytes], names: dict[str, None]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, object) of each line; `names` learns the names of all fields."""
    for number, data in enumerate(file, 1):
        line = data.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").strip()
        if not line:
            continue
        try:
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise BadTable(f"holds no JSON in line {number} ({getattr(error, 'msg', error)})") from error
        if not isinstance(row, Mapping):
            raise BadTable(f"holds no JSON object in line {number}")
        names.update(dict.fromkeys(row))
        yield number, row


def read_coco(file: IO[bytes], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Each asked field of the images of a list of captions in COCO's form, one row an image; `caption` holds lists.

    Raises:
        BadTable: it is no such list, or no image has such a field.
    """
    names: dict[str, None] = {}
    yield from _tables(columns, ([as_text(row.get(column)) for column in columns] for row in _coco_rows(file, names)))
    _check_names(list(names), columns)


def _coco_rows(file: IO[bytes], names: dict[str, None]) -> Iterator[Mapping[str, Any]]:
    """The fields of each image; `names` learns the names of all fields."""
    rows = coco_rows(file)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadTable(
                "is no list of captions as COCO has it: `images`, and `annotations` with `caption`"
            ) from error
        except LookupError as error:
            raise BadTable("holds no `caption` in its `annotations`; name COCO's captions_*.json") from error
        names.update(dict.fromkeys(row))
        yield row


def read_head(file: IO[bytes], suffix: str, count: int) -> dict[str, list[Text]]:
    """The first `count` rows by column, of columns that hold text or what can be written as text; reads no more than that.

    suffix: .parquet, .csv, .tsv, .jsonl, .ndjson, or .json for COCO's form.

    Raises:
        BadTable: as of the readers.
    """
    if suffix == ".parquet":
        with pq.ParquetFile(file, pre_buffer=False) as source:
            plain = [field.name for field in source.schema_arrow if not _holds_bytes(field.type)]
            batch = next(source.iter_batches(count, columns=plain), None)
            rows = [] if batch is None else batch.to_pylist()
            return texts_by_column(plain, rows)
    if suffix == ".json":
        rows = [dict(row) for row in islice(_coco_rows(file, {}), count)]
    elif suffix in (".jsonl", ".ndjson"):
        names: dict[str, None] = {}
        rows = [dict(row) for _, row in islice(_objects(file, names), count)]
    else:
        text, delimiter = _open_csv(file, ())
        try:
            records = _records(csv.reader(text, delimiter=delimiter, strict=True))
            header = [name.strip() for name in next(records, [])]
            _check_names(header, header)
            rows = [dict(zip(header, record, strict=True)) for record in islice(records, count)]
        finally:
            text.detach()
    return texts_by_column(list({name: None for row in rows for name in row}), rows)


def texts_by_column(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Text]]:
    """Rows of fields by column; columns that hold objects are left out."""
    found: dict[str, list[Text]] = {}
    for name in names:
        with suppress(BadTable):
            found[name] = [as_text(row.get(name)) for row in rows]
    return found


def _holds_bytes(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or (
        pa.types.is_nested(kind) and any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))
    )


def as_text(value: Any) -> Text:
    """A value of JSON or Arrow as text, a list as a list of text; None and NaN are None.

    Raises:
        BadTable: it is an object, or a list of lists.
    """
    if isinstance(value, list):
        texts = [as_text(one) for one in value]
        if any(isinstance(text, list) for text in texts):
            raise BadTable("a list of lists")
        return texts  # type: ignore[return-value]
    if isinstance(value, Mapping):
        raise BadTable("an object")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)


def text_array(values: Sequence[Text]) -> pa.Array:
    """`TEXT`, or `TEXTS` if any value is a list."""
    kind = TEXTS if any(isinstance(value, list) for value in values) else TEXT
    if kind == TEXTS:
        values = [value if isinstance(value, list) or value is None else [value] for value in values]
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array(map(_sound, values), kind)


def _sound(value: Text) -> Text:
    if isinstance(value, str):
        return SURROGATES.sub(UNREADABLE, value)
    return value and [_sound(one) for one in value]  # type: ignore[misc]


def concat(columns: Sequence[str], tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of text with these columns, below each other; a column that holds lists in one of them holds lists."""
    tables = tables or [pa.table({name: pa.array([], TEXT) for name in columns})]
    return pa.table({name: _joined([table[name] for table in tables]) for name in columns})


def _tables(columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> Iterator[pa.Table]:
    """Rows as tables, a part of them at a time in memory."""
    rows = iter(rows)
    while part := list(islice(rows, ROWS_AT_ONCE)):
        yield pa.table([text_array(values) for values in zip(*part, strict=True)], list(columns))


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    kind = TEXTS if any(column.type == TEXTS for column in columns) else TEXT
    return pa.chunked_array(
        [_in_lists(chunk) if chunk.type != kind else chunk for column in columns for chunk in column.chunks], kind
    )


def _in_lists(texts: pa.Array) -> pa.Array:
    """Each text as a list of one; null stays null."""
    return pa.array([None if text is None else [text] for text in texts.to_pylist()], TEXTS)


def _check_names(names: Sequence[str], columns: Sequence[str]) -> None:
    times = Counter(names)
    for column in columns:
        if not times[column]:
            raise BadTable(f"has no column '{column}'; it has {', '.join(names) or 'none'}")
        if times[column] > 1:
            raise BadTable(f"has {times[column]} columns called '{column}'; give the others another name")


def _column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of any Arrow type as `TEXT` or `TEXTS`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _column(name, column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    try:
        if not (pa.types.is_nested(kind) or _is_bytes(kind)):
            return column.cast(TEXT)
        return pa.chunked_array([text_array([as_text(value) for value in column.to_pylist()])])
    except (pa.ArrowException, BadTable) as error:
        raise BadTable(f"holds {kind} in its column '{name}', which must hold text") from error


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )
