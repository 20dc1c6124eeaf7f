"""The folder of one ingest: what was listed, what was downloaded, and what became of every row. Pure bookkeeping.

listed.parquet    every listed row, as the card's table gave it
urls.parquet      (row, url as it is asked for) of those that may be tried; img2dataset's input; shard k is its k-th slice
shards/           img2dataset's output: NNNNN.parquet and, when a shard is done, NNNNN_stats.json
rows.parquet      every listed row with its reason ("" = ok), its content hash, and where its bytes lie (an earlier ingest may
                  hold them already); written when all is done
outcome.json      the outcome; an ingest with this file is done
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.captions import KEYWORDS, MORE
from pangu.data.images import BadImage, check_header
from pangu.data.ingest.source import LISTED
from pangu.storage import write_atomically

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
        return self.root / "urls.parquet"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def rows(self) -> Path:
        return self.root / "rows.parquet"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    def read_rows(self) -> pa.Table:
        """Every listed row of a finished ingest, schema `ROWS`; an older one, without the last columns, holds all its bytes."""
        rows = pq.read_table(self.rows)
        found = {name: rows[name] for name in rows.column_names}
        lacking = {name: pa.nulls(rows.num_rows) for name in ("style", *MORE.values(), *KEYWORDS.values())}
        lacking |= {"ingest": [OWN] * rows.num_rows, "raw_row": rows["row"]}
        return pa.table({**lacking, **found}).select(ROWS.names).cast(ROWS)

    def each_row(self) -> Iterator[dict[str, Any]]:
        """The rows of `read_rows`, a few at a time in memory."""
        for batch in self.read_rows().to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    def shard_file(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}.parquet"

    def stats_file(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}_stats.json"

    def expected_rows(self) -> list[set[int]]:
        """Which rows each shard must account for."""
        rows = pq.read_table(self.urls, columns=["row"])["row"].to_pylist()
        return [set(rows[at : at + self.rows_per_shard]) for at in range(0, len(rows), self.rows_per_shard)]

    def finished_shards(self) -> set[int]:
        return {int(file.name.partition("_")[0]) for file in self.shards.glob("*_stats.json")}

    @property
    def is_finished(self) -> bool:
        return self.outcome.is_file() and self.rows.is_file()

    def lost(self) -> set[int]:
        """The rows of a finished ingest that are ok, but whose bytes can no longer be read where they should lie."""
        rows = self.read_rows().select(["row", "reason", "ingest", "shard"])
        rows = rows.filter(pc.equal(rows["reason"], ""))
        readable: dict[tuple[str, int], bool] = {}
        for place in zip(rows["ingest"].to_pylist(), rows["shard"].to_pylist(), strict=True):
            if place not in readable:
                holder = self if place[0] == OWN else RawFolder(self.root.parent / place[0])
                readable[place] = _is_parquet(holder.shard_file(place[1]))
        return {row["row"] for row in rows.to_pylist() if not readable[row["ingest"], row["shard"]]}

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
        with pq.ParquetFile(self.shard_file(shard)) as file:
            for batch in file.iter_batches(64, columns=["row", "error_message", IMAGE_COLUMN]):
                for one in batch.to_pylist():
                    yield one["row"], one[IMAGE_COLUMN], one["error_message"] or ""


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


def write_rows(raw: RawFolder, listed: pa.Table, states: dict[int, RowState]) -> Counter[str]:
    """Write `rows.parquet`; returns how many rows ended under each reason ("" = ok)."""
    numbers = listed["row"].to_pylist()
    ordered = [states[row] for row in numbers]
    columns: dict[str, Any] = {
        "shard": [state.shard for state in ordered],
        "reason": [state.reason for state in ordered],
        "sha256": [state.sha256 for state in ordered],
        "ingest": [state.ingest for state in ordered],
        "raw_row": [row if state.ingest == OWN else state.raw_row for row, state in zip(numbers, ordered, strict=True)],
    }
    table = pa.table({**{name: listed[name] for name in LISTED.names}, **columns}, schema=ROWS)
    write_table(table, raw.rows)
    return Counter(columns["reason"])


def write_table(table: pa.Table, path: Path) -> None:
    """A Parquet file that readers see whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
