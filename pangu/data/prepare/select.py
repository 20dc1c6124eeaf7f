"""Which of many rows become a dataset version: thresholds, near duplicates, splits. Reads facts, never an image.

The decision about a row depends on the card and on the facts of all rows, not on their order or on how they lie in files. No row
is held longer than its batch: verdicts lie in a file, in the order of the rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.captions import MORE
from pangu.data.card import Card
from pangu.data.filters import NEEDS, NearDuplicates, check_measured
from pangu.data.prepare.embeddings_file import read_embeddings
from pangu.data.prepare.made_rows import MadeRows
from pangu.data.prepare.near_duplicates import PICTURES, keep, near_duplicates
from pangu.data.prepare.semantic_duplicates import Vectors, near_embeddings
from pangu.data.prepare.thresholds import reasons_of
from pangu.data.table.delta import data_files, latest_version
from pangu.data.table.rows_file import RowsFile
from pangu.data.table.sorting import sorted_by
from pangu.data.table.spilling import PART_MB, engine, hashed_parts, load, parquet, plain, read_parquet, stream
from pangu.errors import UserError
from pangu.storage import Home

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DECIDING = [
    "key", "original_width", "original_height", "caption_en", "caption_zh", "aspect", "english", "chinese", "text_area", "nsfw",
    "clip_score", "aesthetic", "min_timestep", "phash", "colours", "upscaled", *MORE.values(),
]  # fmt: skip
SEMANTIC = "semantic_duplicate"
VERDICT = pa.schema([("reason", pa.string()), ("split", pa.string()), ("upscaled", pa.bool_())])
_DECIDED = pa.schema(
    [*VERDICT, ("key", pa.string()), ("phash", pa.string()), ("colours", pa.binary()), ("pixels", pa.int64())]
)
_RANKED = pa.schema([("rank", pa.int64()), ("place", pa.int64())])
_KEYS = pa.schema([("key", pa.string())])
_HASHES = pa.schema([("phash", pa.string()), ("colours", pa.binary())])


class Fate(NamedTuple):
    """What becomes of a row; `reason` is "" for one that is kept."""

    reason: str
    split: str
    upscaled: bool


@dataclass(frozen=True)
class Selection:
    """The verdicts on all rows: `decided`, but where `marks` has a reason for a row, by its number."""

    decided: Path
    marks: Path | None
    counts: Counter[Fate] = field(default_factory=Counter)

    def verdicts(self) -> Iterator[pa.Table]:
        """Schema `VERDICT`, for one batch of the rows after the other."""
        marks, start = _each_mark(self.marks), 0
        mark = next(marks, None)
        with pq.ParquetFile(self.decided) as source:
            for group in range(source.num_row_groups):
                rows = source.read_row_group(group, columns=VERDICT.names)
                found: dict[int, str] = {}
                while mark is not None and mark[0] < start + rows.num_rows:
                    found[mark[0] - start] = mark[1]
                    mark = next(marks, None)
                start += rows.num_rows
                yield _marked(rows, found)

    def count(self) -> "Selection":
        """With `counts`, of every fate."""
        for rows in self.verdicts():
            counted = rows.group_by(VERDICT.names).aggregate([([], "count_all")]).to_pylist()
            self.counts.update({Fate(*(one[name] for name in VERDICT.names)): one["count_all"] for one in counted})
        return self

    def dropped(self) -> Counter[str]:
        """Rows by the reason they were dropped for."""
        return sum((Counter({fate.reason: n}) for fate, n in self.counts.items() if fate.reason), Counter[str]())


def select(card: Card, made: MadeRows, home: Home, scratch: Path) -> Selection:
    """The verdict on every row; files of it lie in `scratch`.

    Raises:
        UserError: a threshold asks for a score that no row has, a dataset that the card names does not exist, or the disk is
            full.
    """
    decided, rule = scratch / "decided.parquet", card.filters.near_duplicates
    total, nulls = 0, Counter[str]()
    with pq.ParquetWriter(decided, _DECIDED, compression="zstd") as writer:
        for rows in made.batches(DECIDING):
            total += rows.num_rows
            nulls.update({name: rows[name].null_count for name in NEEDS})
            writer.write_table(_decide(card, rows), row_group_size=rows.num_rows)
    check_measured(card.filters, {name for name in NEEDS if total and nulls[name] == total}, card.name)
    marks = None if rule is None else _mark_near_duplicates(rule, card.name, home, decided, scratch)
    if card.filters.semantic_duplicates is not None:
        marks = _mark_semantic(card, made, home, decided, marks, scratch)
    return Selection(decided, marks).count()


def _decide(card: Card, rows: pa.Table) -> pa.Table:
    """Everything that the facts of a row alone decide."""
    pixels = pc.multiply(rows["original_width"].cast(pa.int64()), rows["original_height"].cast(pa.int64()))
    reasons = reasons_of(rows, card.filters)
    columns: dict[str, Any] = {"reason": reasons, "split": _splits(card, rows), "pixels": pixels}
    return pa.table(columns | {name: rows[name] for name in _DECIDED.names if name not in columns}, schema=_DECIDED)


def _splits(card: Card, rows: pa.Table) -> pa.Array:
    if card.splits.held_out == type(card.splits.held_out)():
        return pa.array(["train"] * rows.num_rows, pa.string())
    facts = zip(*(rows[name].to_pylist() for name in ("caption_en", "key", MORE["en"])), strict=True)
    return pa.array([card.split_of(caption or "", key, more or ()) for caption, key, more in facts], pa.string())


def _mark_near_duplicates(rule: NearDuplicates, name: str, home: Home, decided: Path, scratch: Path) -> Path:
    """A file of the rows that are near others, by number, with the reason."""
    marks = scratch / "marks.parquet"
    before, others = _files_before(name, home), [file for dataset in rule.against for file in _files_of(dataset, home)]
    with engine(scratch, pq.read_metadata(decided).num_rows, PART_MB) as connection:
        load(connection, "hashes", _HASHES, _read(others, _HASHES.names))
        whole = "('0x' || phash)::ubigint as phash, colours"
        connection.execute(f"create table others as select {whole} from hashes where colours is not null")
        found = f"select file_row_number as place, key, pixels, {whole} from {parquet(decided)}"
        _rank(connection, f"{found} where reason = '' and colours is not null", PICTURES, before, scratch)
        with pq.ParquetWriter(marks, pa.schema([("place", pa.int64()), ("reason", pa.string())])) as writer:
            for rows in near_duplicates(connection, rule.max_bits, rule.max_colour):
                writer.write_table(rows)
    return marks


def _mark_semantic(card: Card, made: MadeRows, home: Home, decided: Path, marks: Path | None, scratch: Path) -> Path:
    """`marks`, and those of rows whose embeddings are near others'; rows that are marked already stand in nobody's way."""
    rule, both = card.filters.semantic_duplicates, scratch / "all_marks.parquet"
    assert rule is not None
    with engine(scratch, pq.read_metadata(decided).num_rows) as connection:
        marked = "select null::bigint as place where false" if marks is None else f"from {read_parquet([marks])}"
        connection.execute(f"create table marks as select place::bigint as place from ({marked})")
        found = f"select file_row_number as place, key, pixels from {parquet(decided)}"
        found += " where reason = '' and file_row_number not in (select place from marks)"
        _rank(connection, found, _RANKED, _files_before(card.name, home), scratch)
        [(count,)] = connection.execute("select count(*) from pictures").fetchall()
        connection.execute("create table near (rank bigint)")
        if count:
            vectors = Vectors.write(scratch, count, _ranked(connection, read_embeddings(made, made.batches(["key"]))))
            keep(connection, "near", near_embeddings(connection, vectors, rule.min_similarity))
        connection.execute(
            f"create table reasons as select place, '{SEMANTIC}' as reason from near join pictures using (rank)"
        )
        if marks is not None:
            connection.execute(f"insert into reasons select place, reason from {read_parquet([marks])}")
        connection.execute(f"copy (select * from reasons order by place) to '{plain(both)}' (format parquet)")
    return both


def _rank(
    connection: "DuckDBPyConnection", found: str, schema: pa.Schema, before: Sequence[str], scratch: Path
) -> None:
    """Make the table `pictures`, by rank: what files of the version before held comes first, then the larger.

    found: rows with place, key, pixels and what else stands in the schema, as SQL.
    """
    connection.execute("create table pictures as " + _empty(schema))
    with TemporaryDirectory(dir=scratch) as folder:
        start = 0
        for table in sorted_by("ranked_by", _to_be_ranked(connection, found, before, Path(folder)), Path(folder)):
            ranks = np.arange(start, start + table.num_rows)
            start += table.num_rows
            ranked = table.select(schema.names[1:]).add_column(0, "rank", pa.array(ranks))
            keep(connection, "pictures", iter([ranked.cast(schema)]))


def _empty(schema: pa.Schema) -> str:
    """A table without rows, as SQL."""
    kinds = {pa.int64(): "bigint", pa.uint64(): "ubigint", pa.binary(): "blob"}
    return f"select {', '.join(f'null::{kinds[field.type]} as {field.name}' for field in schema)} where false"


def _to_be_ranked(
    connection: "DuckDBPyConnection", found: str, before: Sequence[str], folder: Path
) -> Iterator[pa.Table]:
    """The rows in any order, with the text that they are `ranked_by`."""
    [(count,)] = connection.execute(f"select count(*) from ({found})").fetchall()
    parts = hashed_parts(connection, found, "key", folder / "found", count)
    connection.register("held", pa.RecordBatchReader.from_batches(_KEYS, _key_batches(before)))
    held = hashed_parts(connection, "select key from held", "key", folder / "held", count)
    connection.unregister("held")
    for number in range(len(parts)):
        for name, some in (("part", parts), ("before", held)):
            load(connection, name, some.schema, some.batches(number))
            some.discard(number)
        larger = f"lpad(to_hex({2**62} - coalesce(pixels, 0)), 16, '0')"
        order = f"(case when key in (select key from before) then '0' else '1' end) || {larger} || key"
        reader = stream(connection, f"select *, {order} as ranked_by from part")
        yield from map(pa.table, reader)


def _key_batches(files: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for table in _read(files, _KEYS.names):
        yield from table.select(_KEYS.names).cast(_KEYS).to_batches()


def _ranked(
    connection: "DuckDBPyConnection", embeddings: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ranks, embeddings) of the pictures among some rows after the other."""
    start = 0
    for some in embeddings:
        asked = f"select place, rank from pictures where place >= {start} and place < {start + len(some)}"
        found = connection.sql(asked).to_arrow_table()
        if found.num_rows:
            yield found["rank"].to_numpy(), some[found["place"].to_numpy() - start]
        start += len(some)


def _files_before(name: str, home: Home) -> list[str]:
    try:
        return data_files(home, name, latest_version(home, name))
    except UserError:
        return []


def _files_of(dataset: str, home: Home) -> list[str]:
    """The files of a dataset that a card names."""
    name, _, version = dataset.partition("@")
    if version and not version.isdigit():
        raise UserError(f"filters.near_duplicates.against names '{dataset}'; it must be NAME or NAME@VERSION.")
    return data_files(home, name, int(version) if version else latest_version(home, name))


def _read(files: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
    """Columns of every file that has them all: older ones lack hashes."""
    for file in files:
        with RowsFile(file) as source:
            if set(columns) <= set(source.schema_arrow.names):
                yield from source.iter_batches(65_536, columns)


def _each_mark(marks: Path | None) -> Iterator[tuple[int, str]]:
    if marks is not None:
        with pq.ParquetFile(marks, pre_buffer=False) as source:
            for batch in source.iter_batches(65_536):
                yield from zip(batch["place"].to_pylist(), batch["reason"].to_pylist(), strict=True)


def _marked(rows: pa.Table, marks: dict[int, str]) -> pa.Table:
    if not marks:
        return rows
    reasons = np.asarray(rows["reason"], object)
    reasons[list(marks)] = list(marks.values())
    return rows.set_column(0, VERDICT.field("reason"), pa.array(reasons, pa.string()))
