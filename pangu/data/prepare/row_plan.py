"""Which rows are made at all, before anything is decoded: those with a caption, and of equal bytes one with all their captions.

Reads no image, and holds no row: the plan is a file, sorted by shard, or several where there are many rows, because a Parquet
file is described in memory while it is written, and whenever it is read.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.captions import KEYWORDS, LANGUAGES, MORE
from pangu.data.ingest.raw import OWN, ROWS
from pangu.data.table.sorting import Parts, sorted_by
from pangu.data.table.spilling import engine, hashed_parts, load, parquet, stream
from pangu.data.table.store import storage_errors
from pangu.storage import replacing

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

GROUP_ROWS = 2048
"""Rows of a row group of the plan: whoever makes a shard reads one or two of them."""
FILE_ROWS = 1 << 18
"""Rows of a file of the plan, and those that its last shard has beyond."""


@dataclass(frozen=True)
class PlannedShard:
    """The rows to be made of one raw shard, by the ingest that holds its bytes; travels without them."""

    file: Path
    ingest: str
    shard: int
    count: int

    def rows(self) -> pa.Table:
        """Schema `pangu.data.ingest.raw.ROWS`, in the order of the listing."""
        chosen = [("ingest", "=", self.ingest), ("shard", "=", self.shard)]
        return pq.read_table(self.file, filters=chosen, partitioning=None).select(ROWS.names).cast(ROWS)


@dataclass(frozen=True)
class RowPlan:
    """The rows to be made, shard by shard, and what was dropped to get there."""

    shards: tuple[PlannedShard, ...]
    dropped: Counter[str]


def plan_rows(listed: Path, plan: Path, describes: bool = False) -> RowPlan:
    """Drop rows without any caption, then all but the first row of equal bytes, which gets the words of the others.

    Args:
        listed: Every row of an ingest, schema `pangu.data.ingest.raw.ROWS`, of which older ones lack columns; failed ones are
            passed over.
        plan: The file to be written; further ones lie beside it, numbered.
        describes: A model may still write a caption, so that none has to be there.

    Raises:
        UserError: the disk is full.
    """
    rows, counts, files = pq.read_metadata(listed).num_rows, Counter[tuple[str, int]](), dict[tuple[str, int], Path]()
    for left in plan.parent.glob(".planning-*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=plan.parent, prefix=".planning-") as place, engine(plan.parent, rows) as connection:
        connection.execute(f"create view listed as select {_columns(listed)} from {parquet(listed)}")
        captioned = " or ".join(f"coalesce(strlen(caption_{language}), 0) > 0" for language in LANGUAGES)
        asked = f"select * from listed where reason = '' and ({'true' if describes else captioned})"
        [(came, with_caption)] = connection.execute(
            f"select (select count(*) from listed where reason = ''), (select count(*) from ({asked}))"
        ).fetchall()
        parts = hashed_parts(connection, asked, "sha256", Path(place) / "parts", with_caption)
        tables = sorted_by(_PLACE, _kept(connection, parts), Path(place))
        for number, some in groupby(_in_files(tables), itemgetter(0)):
            path = plan.with_stem(f"{plan.stem}-{number:05d}") if number else plan
            with storage_errors(str(plan.parent)), replacing(path) as file, pq.ParquetWriter(file, ROWS) as writer:
                for _, table in some:
                    writer.write_table(table.select(ROWS.names).cast(ROWS), GROUP_ROWS)
                    for one in table.group_by(["ingest", "shard"]).aggregate([([], "count_all")]).to_pylist():
                        counts[one["ingest"], one["shard"]] += one["count_all"]
                        files[one["ingest"], one["shard"]] = path
    dropped = {"missing_caption": came - with_caption, "duplicate": with_caption - counts.total()}
    shards = tuple(PlannedShard(files[where], *where, count) for where, count in sorted(counts.items()))
    return RowPlan(shards, Counter({reason: count for reason, count in dropped.items() if count}))


def _in_files(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Rows by `_PLACE` in pieces, each with the number of its file: a shard lies in one."""
    number, rows, last = 0, 0, ""
    for table in tables:
        shards = np.asarray(pc.utf8_slice_codeunits(table[_PLACE], 0, -_LINE_DIGITS), object)
        begin, is_first = 0, np.concatenate([[shards[0] != last], shards[1:] != shards[:-1]])
        for start in np.flatnonzero(is_first).tolist():
            if rows + start - begin >= FILE_ROWS:
                if start > begin:
                    yield number, table.slice(begin, start - begin)
                number, rows, begin = number + 1, 0, start
        yield number, table.slice(begin)
        rows, last = rows + table.num_rows - begin, shards[-1]


def _kept(connection: "DuckDBPyConnection", parts: Parts) -> Iterator[pa.Table]:
    """The rows to be made, with their `_PLACE`: of equal bytes, which lie in one part, the first with the words of all."""
    for number in range(len(parts)):
        load(connection, "captioned", parts.schema, parts.batches(number))
        parts.discard(number)
        connection.execute(
            "create or replace table kept as select sha256, min(line) as line, count(*) as n from captioned group by sha256"
        )
        for language in LANGUAGES:
            _merge(
                connection, f"captions_{language}", f"list_prepend(caption_{language}, coalesce({MORE[language]}, []))"
            )
            _merge(connection, f"words_{language}", f"coalesce({KEYWORDS[language]}, [])")
        for batch in stream(connection, _PLANNED):
            yield pa.table(batch)


def _columns(listed: Path) -> str:
    """Every column of `ROWS`, as SQL; an ingest from before the last ones holds all its bytes itself."""
    there, missing = set(pq.read_schema(listed).names), {"ingest": f"'{OWN}'", "raw_row": '"row"'}
    types = {"ingest": "varchar", "raw_row": "bigint"} | dict.fromkeys(
        (*MORE.values(), *KEYWORDS.values()), "varchar[]"
    )
    names = [
        f'"{name}"'
        if name in there
        else f'cast({missing.get(name, "null")} as {types.get(name, "varchar")}) as "{name}"'
        for name in ROWS.names
    ]
    return ", ".join([*names, "file_row_number as line"])


def _merge(connection: "DuckDBPyConnection", name: str, texts: str) -> None:
    """A table of all texts of rows of equal bytes, each once, in the listing's order."""
    place = "min(line::hugeint * 1048576 + place)"
    connection.execute(
        f"create or replace table {name} as select sha256, list(text order by place) as texts"
        f" from (select sha256, text, {place} as place"
        f" from (select sha256, line, unnest({texts}) as text, generate_subscripts({texts}, 1) as place"
        " from captioned semi join (select sha256 from kept where n > 1) using (sha256))"
        " where strlen(text) > 0 group by sha256, text) group by sha256"
    )


_PLACE = "place"
"""By ingest, shard and line, as text."""
_LINE_DIGITS = 18


def _planned() -> str:
    replaced = []
    for language in LANGUAGES:
        captions, words = f"captions_{language}.texts", f"words_{language}.texts"
        replaced += [
            f"case when n > 1 then coalesce({captions}[1], '') else caption_{language} end as caption_{language}",
            f"case when n = 1 then {MORE[language]} when len({captions}) > 1 then {captions}[2:] end as {MORE[language]}",
            f"case when n > 1 then {words} else {KEYWORDS[language]} end as {KEYWORDS[language]}",
        ]
    joined = " ".join(
        f"left join {kind}_{language} on {kind}_{language}.sha256 = captioned.sha256"
        for language in LANGUAGES
        for kind in ("captions", "words")
    )
    return (
        f"select captioned.* exclude (line) replace ({', '.join(replaced)}),"
        f" ingest || ' ' || lpad(shard::varchar, 12, '0') || lpad(captioned.line::varchar, {_LINE_DIGITS}, '0') as {_PLACE}"
        f" from captioned join kept on kept.sha256 = captioned.sha256 and kept.line = captioned.line {joined}"
    )


_PLANNED = _planned()
