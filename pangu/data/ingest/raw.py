"""The folder of one ingest: what was listed, what was downloaded, and what became of every row. Pure bookkeeping.

listed.parquet    every listed row, as the card's table gave it
urls/             (row, url as it is asked for) of those that may be tried, each URL once; img2dataset's input; shard k is the
                  k-th row group of its files
shards/           img2dataset's output: NNNNN.parquet and, when a shard is done, NNNNN_stats.json
rows.parquet      every listed row with its reason ("" = ok), its content hash, and where its bytes lie (an earlier ingest may
                  hold them already, or another row of this one that has the same URL); written when all is done
scratch/          what is not yet finished
outcome.json      the outcome; an ingest with this file is done
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.captions import KEYWORDS, MORE
from pangu.data.images import BadImage, check_header
from pangu.data.ingest.source import LISTED, even_parts
from pangu.data.table.store import TableStore

IMAGE_COLUMN = "jpg"
"""img2dataset names the column of the bytes after an encode format, whatever they are."""
NO_SHARD = -1
OWN = ""
"""In the place of an ingest id: this one."""
ROWS = pa.schema(
    [
        *LISTED,
        ("shard", pa.int32()),
        ("reason", pa.string()),
        ("sha256", pa.string()),
        ("ingest", pa.string()),  # the ingest that holds the bytes, or OWN
        ("raw_row", pa.int64()),  # its row number there
    ]
)
STATE = pa.schema([ROWS.field(name) for name in ("row", "shard", "reason", "sha256", "ingest", "raw_row")])
"""A `RowState` and its row."""
URLS = pa.schema([LISTED.field(name) for name in ("row", "url")])
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class RowState:
    """What became of one listed row; `reason` is "" for an image that was downloaded.

    ingest, raw_row: where its bytes lie, if in an earlier ingest.
    """

    shard: int
    reason: str
    sha256: str = ""
    ingest: str = OWN
    raw_row: int = NO_SHARD


@dataclass(frozen=True)
class RawFolder:
    """The paths of one ingest, and how its files are read."""

    root: Path
    rows_per_shard: int = 1000

    @property
    def listed(self) -> Path:
        return self.root / "listed.parquet"

    @property
    def urls(self) -> Path:
        return self.root / "urls"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def rows(self) -> Path:
        return self.root / "rows.parquet"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    def row_batches(self) -> Iterator[pa.Table]:
        """Every listed row of a finished ingest in the listing's order, schema `ROWS`, some at a time; an older one, without the
        last columns, holds all its bytes."""
        with pq.ParquetFile(self.rows, buffer_size=1 << 20, pre_buffer=False) as source:
            for batch in source.iter_batches(ROWS_AT_ONCE):
                found = {name: batch[name] for name in batch.schema.names}
                lacking = {name: pa.nulls(batch.num_rows) for name in ("style", *MORE.values(), *KEYWORDS.values())}
                lacking |= {"ingest": pa.array([OWN] * batch.num_rows), "raw_row": batch["row"]}
                yield pa.table({**lacking, **found}).select(ROWS.names).cast(ROWS)

    def shard_file(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}.parquet"

    def stats_file(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}_stats.json"

    def expected_rows(self) -> "ShardRows":
        """Which rows each shard must account for."""
        return ShardRows(self)

    @property
    def shards_per_file(self) -> int:
        """Of `urls`, whose files img2dataset reads whole, one after the other."""
        return max(1, ROWS_AT_ONCE // self.rows_per_shard)

    def url_file(self, number: int) -> Path:
        return self.urls / f"{number:06d}.parquet"

    def shard_urls(self, shard: int) -> pa.Table:
        """What a shard asks for, schema `URLS`."""
        file, group = divmod(shard, self.shards_per_file)
        with pq.ParquetFile(self.url_file(file)) as source:
            return source.read_row_group(group)

    def finished_shards(self) -> set[int]:
        return {int(file.name.partition("_")[0]) for file in self.shards.glob("*_stats.json")}

    @property
    def is_finished(self) -> bool:
        return self.outcome.is_file() and self.rows.is_file()

    def lost(self) -> set[tuple[str, int]]:
        """The (ingest, shard) whose bytes rows of a finished ingest refer to, and which can no longer be read there."""
        places: set[tuple[str, int]] = set()
        for rows in self.row_batches():
            ok = rows.filter(pc.equal(rows["reason"], "")).group_by(["ingest", "shard"]).aggregate([])
            places |= set(zip(ok["ingest"].to_pylist(), ok["shard"].to_pylist(), strict=True))
        return {place for place in places if not _is_parquet(self.holder(place[0]).shard_file(place[1]))}

    def holder(self, ingest: str) -> "RawFolder":
        """The ingest of that name, which holds bytes of this one."""
        return self if ingest == OWN else RawFolder(self.root.parent / ingest)

    def discard(self, shard: int) -> None:
        """Forget a shard, so that it is downloaded again."""
        for file in (self.stats_file(shard), self.shard_file(shard)):
            with suppress(FileNotFoundError):
                file.unlink()

    def row_numbers(self, shard: int) -> list[int]:
        """The rows of a downloaded shard, in its order."""
        return list(pq.read_table(self.shard_file(shard), columns=["row"], partitioning=None)["row"].to_pylist())

    def images(self, shard: int) -> Iterator[tuple[int, bytes | None, str]]:
        """(row, bytes or None, error message) of a downloaded shard, in no order."""
        with pq.ParquetFile(self.shard_file(shard), pre_buffer=False) as file:
            for batch in file.iter_batches(64, columns=["row", "error_message", IMAGE_COLUMN]):
                for one in batch.to_pylist():
                    yield one["row"], one[IMAGE_COLUMN], one["error_message"] or ""


class ShardRows(Sequence[set[int]]):
    """The rows of each shard, read when they are asked for."""

    def __init__(self, raw: RawFolder) -> None:
        self._raw = raw
        self.total = sum(pq.read_metadata(file).num_rows for file in raw.urls.glob("*.parquet"))
        """Rows of all shards."""
        self._rows = lru_cache(maxsize=4)(self._read)

    def __len__(self) -> int:
        return -(-self.total // self._raw.rows_per_shard)

    def __getitem__(self, shard):  # type: ignore[no-untyped-def]
        return set(self._rows(range(len(self))[shard]))

    def size(self, shard: int) -> int:
        """How many rows a shard has."""
        return min(self._raw.rows_per_shard, self.total - shard * self._raw.rows_per_shard)

    def _read(self, shard: int) -> frozenset[int]:
        return frozenset(self._raw.shard_urls(shard)["row"].to_pylist())


def write_urls(raw: RawFolder, tables: Iterable[pa.Table]) -> None:
    """Write what the shards ask for. tables: schema `URLS`, in the order of the rows."""
    made = raw.urls.with_suffix(".tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    size = raw.rows_per_shard
    for number, part in enumerate(even_parts(tables, size * raw.shards_per_file)):
        pq.write_table(part.cast(URLS), made / raw.url_file(number).name, row_group_size=size)
    shutil.rmtree(raw.urls, ignore_errors=True)
    made.rename(raw.urls)


def _is_parquet(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True


def account(raw: RawFolder, shard: int, expected: set[int], max_pixels: int) -> dict[int, RowState] | None:
    """What became of every row of a shard; None if the shard is torn, or lost or doubled a row.

    Image headers are read here, nothing is decoded: what is no image, or absurdly large, fails the ingest of that row.
    """
    states: dict[int, RowState] = {}
    try:
        json.loads(raw.stats_file(shard).read_bytes())
        for row, data, message in raw.images(shard):
            if row in states:
                return None
            states[row] = _state(shard, data, message, max_pixels)
    except (OSError, pa.ArrowException, ValueError):
        return None
    return states if states.keys() == expected else None


def _state(shard: int, data: bytes | None, message: str, max_pixels: int) -> RowState:
    if data is None:
        return RowState(shard, reason_of(message))
    try:
        check_header(data, max_pixels)
    except BadImage as error:
        return RowState(shard, error.reason)
    return RowState(shard, "", hashlib.sha256(data).hexdigest())


def reason_of(message: str) -> str:
    """The guard's messages begin with their reason; the only other one is img2dataset's about opt-out headers."""
    return "opted_out" if "X-Robots-Tag" in message else message.partition(":")[0] or "download_error"


def failures(raw: RawFolder, shard: int) -> Counter[str]:
    """Failed downloads of a finished shard by reason, from its statistics alone; what is no image is found out later."""
    found: Counter[str] = Counter()
    with suppress(OSError, ValueError, KeyError, TypeError):
        for message, count in json.loads(raw.stats_file(shard).read_bytes())["status_dict"].items():
            if message != "success":
                found[reason_of(message)] += int(count)
    return found


def states_table(states: Mapping[int, RowState]) -> pa.Table:
    """Schema `STATE`, by ascending row."""
    ordered = sorted(states.items())
    columns = {name: [getattr(state, name) for _, state in ordered] for name in STATE.names if name != "row"}
    return pa.table({"row": [row for row, _ in ordered], **columns}, schema=STATE)


class StatesInOrder:
    """States by ascending row, as one part of a listing after the other asks for its own."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables, self._rest = iter(tables), STATE.empty_table()

    def of(self, listed: pa.Table) -> pa.Table:
        """Those of the next rows of the listing that have one."""
        last, parts = listed["row"][-1].as_py(), [self._rest]
        while not parts[-1].num_rows or parts[-1]["row"][-1].as_py() <= last:
            if (more := next(self._tables, None)) is None:
                break
            parts.append(more)
        whole = pa.concat_tables(parts)
        count = pc.sum(pc.less_equal(whole["row"], last)).as_py() or 0
        self._rest = whole.slice(count)
        return whole.slice(0, count)


def write_rows(raw: RawFolder, listed: Iterable[pa.Table], states: Iterable[pa.Table]) -> Counter[str]:
    """Write `rows.parquet`; returns how many rows ended under each reason ("" = ok).

    listed, states: every row with its state (schema `STATE`), by ascending row, some at a time in memory.
    """
    counts, found = Counter[str](), StatesInOrder(states)
    with TableStore(str(raw.root)).parquet_writer(raw.rows.name, ROWS) as writer:
        for rows in listed:
            mine = found.of(rows)
            assert mine["row"].equals(rows["row"]), "a row has no state, or two"
            own_row = pc.if_else(pc.equal(mine["ingest"], OWN), mine["row"], mine["raw_row"])
            columns = {name: mine[name] for name in STATE.names} | {"raw_row": own_row}
            table = pa.table({**{name: rows[name] for name in LISTED.names}, **columns}).select(ROWS.names).cast(ROWS)
            writer.write_table(table)
            for one in mine["reason"].value_counts().to_pylist():
                counts[one["values"]] += one["counts"]
    return counts


def write_table(table: pa.Table, path: Path) -> None:
    """A small Parquet file that readers see whole or not at all."""
    TableStore(str(path.parent)).write_parquet(path.name, table)


class StatesFile:
    """States in the order in which they are found, in a file; some of them wait in memory."""

    def __init__(self, path: Path) -> None:
        self._writer, self._waiting = pq.ParquetWriter(path, STATE), list[pa.Table]()

    def __enter__(self) -> "StatesFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._writer.close()

    def add(self, states: pa.Table) -> None:
        """Schema `STATE`."""
        self._waiting.append(states)
        if sum(table.num_rows for table in self._waiting) >= ROWS_AT_ONCE:
            self._write()

    def found(self, states: Mapping[int, RowState]) -> None:
        """What became of the rows of a shard."""
        self.add(states_table(states))

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []
