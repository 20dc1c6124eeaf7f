"""What earlier ingests of a dataset already have, and which failures are worth another try. Pure bookkeeping.

No row of a list is held: states lie in files, and come some at a time by ascending row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.ingest.raw import NO_SHARD, OWN, ROWS_AT_ONCE, STATE, URLS, RawFolder, StatesInOrder
from pangu.data.ingest.urls import requested_or_same
from pangu.data.table.spilling import engine, plain, read_parquet

UNASKED = frozenset({"missing_url", "bad_url", "refused_scheme"})
"""What is told from a URL alone, so that there is no download to save."""
BACKOFF_SECONDS: Mapping[str, float] = {
    "bad_url": 0,  # of an earlier version, where this one asks for it
    "connection_lost": 5,
    "incomplete": 5,
    "bad_response": 15,
    "timeout": 30,
    "unresolved_host": 60,
    "http_408": 15,
    "http_429": 120,
    "http_500": 30,
    "http_502": 30,
    "http_503": 60,
    "http_504": 60,
}
"""How long to wait before the first further try, doubled for each one after it. Any other failure stays what it is:
the server has said no, or what it sends is no image."""


ASKED = pa.schema([*URLS, ("asked", pa.string())])
_BEFORE = pa.schema([*STATE, ("asked", pa.string()), ("place", pa.int64()), ("nth", pa.int64())])


def reuse(listed: Iterable[pa.Table], earlier: Iterable[RawFolder], scratch: Path) -> Iterator[pa.Table]:
    """The state of every listed row whose URL, as it is asked for, an earlier ingest knows: the first one that has its bytes, or
    else its failure.

    earlier: finished ingests of the same dataset under the same limits, the newest first. scratch: an empty folder.
    """
    before, asked = scratch / "before.parquet", scratch / "asked.parquet"
    _write(before, _BEFORE, (rows for nth, raw in enumerate(earlier) for rows in _known(raw, nth)))
    _write(asked, ASKED, map(asked_for, listed))
    if not _count([before]):
        return
    with engine(scratch, _count([before, asked])) as connection:
        # The first that has bytes comes before all that failed; of either, the newest ingest, and its first row.
        failed = "(case when reason = '' then 0 else 1 end)::hugeint"
        rank = f"({failed} * {2**80}::hugeint + nth::hugeint * {2**60}::hugeint + place)"
        connection.execute(
            f"create table best as select asked, min({rank}) as rank from {read_parquet([before])}"
            f" where asked in (select asked from {read_parquet([asked])}) group by asked"
        )
        connection.execute(
            f"create table known as select b.asked, b.shard, b.reason, b.sha256, b.ingest, b.raw_row from"
            f" (select *, {rank} as rank from {read_parquet([before])}) b join best using (asked, rank)"
        )
        reader = connection.sql(
            f'select a."row", {", ".join(f"known.{name}" for name in STATE.names if name != "row")}'
            f' from {read_parquet([asked])} a join known using (asked) order by a."row"'
        ).to_arrow_reader(ROWS_AT_ONCE)
        for batch in reader:
            yield pa.table(batch).cast(STATE)


def asked_for(listed: pa.Table) -> pa.Table:
    """Row and URL of listed rows, and the URL that is asked for; schema `ASKED`."""
    asked = pa.array(map(requested_or_same, listed["url"].to_pylist()), pa.string())
    return listed.select(URLS.names).append_column("asked", asked)


def _known(raw: RawFolder, nth: int) -> Iterator[pa.Table]:
    """What an earlier ingest knows of URLs, schema `_BEFORE`."""
    lost, start = raw.lost(), 0
    for rows in raw.row_batches():
        place = np.arange(start, start + rows.num_rows)
        start += rows.num_rows
        own = pc.if_else(pc.equal(rows["ingest"], OWN), raw.root.name, rows["ingest"])
        known = asked_for(rows).select(["asked"])
        for name in STATE.names:
            known = known.append_column(name, own if name == "ingest" else rows[name])
        known = known.append_column("place", pa.array(place)).append_column("nth", pa.array(np.full(len(place), nth)))
        useless = pc.or_(pa.array(_in_places(rows, lost)), pc.is_in(rows["reason"], pa.array(sorted(UNASKED))))
        yield known.filter(pc.invert(useless)).select(_BEFORE.names)


def first_of_each(asked: Iterable[pa.Table], scratch: Path) -> tuple[Iterator[pa.Table], Path]:
    """Of rows that ask for one URL the first, schema `URLS`, by ascending row; and a file of the others, (row, first).

    asked: schema `ASKED`. scratch: an empty folder; both need what lies in it.
    """
    all_of, first, copies = (scratch / f"{name}.parquet" for name in ("tried", "first", "copies"))
    _write(all_of, ASKED, asked)
    with engine(scratch, _count([all_of])) as connection:
        connection.execute(
            f'create table firsts as select asked, min("row") as first, count(*) as n from {read_parquet([all_of])}'
            " group by asked"
        )
        size = f"(format parquet, row_group_size {ROWS_AT_ONCE})"
        connection.execute(
            f"copy (select first as \"row\", asked as url from firsts order by first) to '{plain(first)}' {size}"
        )
        connection.execute(
            f'copy (select a."row", f.first from {read_parquet([all_of])} a join firsts f using (asked)'
            f" where f.n > 1 and a.\"row\" <> f.first order by 1) to '{plain(copies)}' {size}"
        )
    return _batches(first), copies


def all_states(files: Iterable[Path], copies: Path | None, ingest: str, scratch: Path) -> Iterator[pa.Table]:
    """Every state in some files (schema `STATE`) and those of rows that have the bytes of another, by ascending row.

    copies: as of `first_of_each`. ingest: the name of this one, where those bytes lie.
    """
    files = list(files)
    with engine(scratch, _count([*files, *([copies] if copies else [])])) as connection:
        names = ", ".join(f'"{name}"' for name in STATE.names)
        states = f"select {names} from {read_parquet(files)}"
        if copies is not None:
            states += (
                f" union all select c.\"row\", s.shard, s.reason, s.sha256, '{ingest}' as ingest, c.first as raw_row"
                f' from {read_parquet([copies])} c join ({states}) s on s."row" = c.first'
            )
        for batch in connection.sql(f'select * from ({states}) order by "row"').to_arrow_reader(ROWS_AT_ONCE):
            yield pa.table(batch).cast(STATE)


def carried(raw: RawFolder) -> Iterator[pa.Table]:
    """Every row of a finished ingest, as a later attempt at the same listing refers to it."""
    for rows in raw.row_batches():
        held_here = pc.and_(pc.equal(rows["ingest"], OWN), pc.not_equal(rows["shard"], NO_SHARD))
        ingest = pc.if_else(held_here, raw.root.name, rows["ingest"])
        states = rows.select(STATE.names)
        yield states.set_column(STATE.get_field_index("ingest"), STATE.field("ingest"), ingest)


def elsewhere(raw: RawFolder) -> Iterator[pa.Table]:
    """The rows of a finished ingest of which its own shards say nothing: earlier ingests hold them, or their URL was refused."""
    own = pa.array([OWN, raw.root.name])
    for rows in raw.row_batches():
        foreign = pc.or_(pc.invert(pc.is_in(rows["ingest"], own)), pc.equal(rows["shard"], NO_SHARD))
        yield rows.filter(foreign).select(STATE.names)


def without_lost(raw: RawFolder, lost: set[tuple[str, int]]) -> Iterator[pa.Table]:
    """`carried`, but for rows whose bytes lay where nothing can be read any more."""
    for rows, states in zip(raw.row_batches(), carried(raw), strict=True):
        yield states.filter(pa.array(~_in_places(rows, lost)))


def without_reason(raw: RawFolder, reason: str, is_refused: Callable[[str], bool]) -> Iterator[pa.Table]:
    """`carried`, but for rows that failed for this reason; a refused URL stays refused."""
    for rows, states in zip(raw.row_batches(), carried(raw), strict=True):
        failed = pc.equal(rows["reason"], reason).to_numpy()
        for at in np.flatnonzero(failed):
            failed[at] = not is_refused(rows["url"][int(at)].as_py())
        yield states.filter(pa.array(~failed))


def passing_reasons(raw: RawFolder, is_refused: Callable[[str], bool]) -> set[str]:
    """Why rows of a finished ingest failed whose URL is not refused, and which may pass."""
    found: set[str] = set()
    for rows in raw.row_batches():
        hopeful = rows.filter(
            pc.is_in(rows["reason"], pa.array([name for name in BACKOFF_SECONDS if name not in found]))
        )
        for reason, url in zip(hopeful["reason"].to_pylist(), hopeful["url"].to_pylist(), strict=True):
            if reason not in found and not is_refused(url):
                found.add(reason)
    return found


def waits(reasons: Iterable[str], tried: int) -> dict[str, float]:
    """Seconds to wait before rows of each reason are tried again after `tried` further tries; hopeless reasons are left out."""
    return {reason: BACKOFF_SECONDS[reason] * 2**tried for reason in reasons if reason in BACKOFF_SECONDS}


def not_known(listed: Iterable[pa.Table], known: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The listed rows that have no state yet."""
    states = StatesInOrder(known)
    for rows in listed:
        there = states.of(rows)["row"]
        if len(there) < rows.num_rows:
            yield rows.filter(pc.invert(pc.is_in(rows["row"], there.combine_chunks())))


def _in_places(rows: pa.Table, places: set[tuple[str, int]]) -> np.ndarray:
    """(N,) which ok rows' bytes lie in these (ingest, shard)."""
    if not places:
        return np.zeros(rows.num_rows, bool)
    facts = zip(*(rows[name].to_pylist() for name in ("ingest", "shard", "reason")), strict=True)
    return np.asarray([not reason and (ingest, shard) in places for ingest, shard, reason in facts], bool)


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _batches(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as source:
        yield from map(pa.table, source.iter_batches(ROWS_AT_ONCE))


def _count(files: Iterable[Path]) -> int:
    return sum(pq.read_metadata(file).num_rows for file in files)
