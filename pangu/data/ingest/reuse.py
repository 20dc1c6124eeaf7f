"""What earlier ingests of a dataset already have, and which failures are worth another try. Pure bookkeeping.

No row of a list is held: states lie in files, and come some at a time by ascending row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.ingest.raw import NO_SHARD, OWN, ROWS_AT_ONCE, STATE, URLS, RawFolder, StatesInOrder
from pangu.data.ingest.urls import requested_or_same
from pangu.data.table.sorting import Parts, sorted_by
from pangu.data.table.spilling import PART_MB, engine, hashed_parts, load, read_parquet

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
_COPIES = pa.schema([("row", pa.int64()), ("first", pa.int64())])
"""Rows that have the bytes of another, and of which."""
_BEFORE = pa.schema([*STATE, ("asked", pa.string()), ("place", pa.int64()), ("nth", pa.int64())])


def reuse(listed: Iterable[pa.Table], earlier: Iterable[RawFolder], scratch: Path) -> Iterator[pa.Table]:
    """The state of every listed row whose URL, as it is asked for, an earlier ingest knows: the first one that has its bytes, or
    else its failure.

    earlier: finished ingests of the same dataset under the same limits, the newest first. scratch: an empty folder.
    """
    before, asked = scratch / "before.parquet", scratch / "asked.parquet"
    _write(before, _BEFORE, (rows for nth, raw in enumerate(earlier) for rows in _known(raw, nth)))
    if not _count([before]):
        return
    _write(asked, ASKED, map(asked_for, listed))
    yield from sorted_by("row", _found_before(before, asked, scratch), scratch)


def _found_before(before: Path, asked: Path, scratch: Path) -> Iterator[pa.Table]:
    """Schema `STATE`: what is known of the rows of `asked`, in any order."""
    failed = "(case when reason = '' then 0 else 1 end)::hugeint"
    # The first that has bytes comes before all that failed; of either, the newest ingest, and its first row.
    rank = f"({failed} * {2**80}::hugeint + nth::hugeint * {2**60}::hugeint + place)"
    facts = ", ".join(f"known.{name}" for name in STATE.names if name != "row")
    with (
        TemporaryDirectory(dir=scratch) as place,
        engine(scratch, rows := _count([before, asked]), PART_MB) as connection,
    ):
        known, wanted = (
            hashed_parts(connection, f"select * from {read_parquet([file])}", "asked", Path(place) / file.stem, rows)
            for file in (before, asked)
        )
        for number in range(len(known)):
            for name, parts in (("before", known), ("wanted", wanted)):
                load(connection, name, parts.schema, parts.batches(number))
                parts.discard(number)
            connection.execute(
                f"create or replace table best as select asked, min({rank}) as rank from before"
                " where asked in (select asked from wanted) group by asked"
            )
            reader = connection.sql(
                f'select w."row", {facts} from wanted w join (select b.* from (select *, {rank} as rank from before) b'
                " join best using (asked, rank)) known using (asked)"
            ).to_arrow_reader(ROWS_AT_ONCE)
            yield from (pa.table(batch).cast(STATE) for batch in reader)


def of_each_url(ask: Callable[[str], str], urls: pa.ChunkedArray) -> pa.Array:
    """What is told of each URL, as text; asked once of one that is there many times."""
    coded = urls.combine_chunks().dictionary_encode()
    return pa.array(map(ask, coded.dictionary.to_pylist()), pa.string()).take(coded.indices)


def asked_for(listed: pa.Table) -> pa.Table:
    """Row and URL of listed rows, and the URL that is asked for; schema `ASKED`."""
    return listed.select(URLS.names).append_column("asked", of_each_url(requested_or_same, listed["url"]))


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
    """Of rows that ask for one URL the first, schema `URLS`, by ascending row; and a file of the others, `_COPIES` by `first`.

    asked: schema `ASKED`. scratch: an empty folder; both need what lies in it.
    """
    all_of, first, copies = (scratch / f"{name}.parquet" for name in ("tried", "first", "copies"))
    _write(all_of, ASKED, asked)
    with TemporaryDirectory(dir=scratch) as place:
        found = Parts(Path(place) / "found", _COPIES, 1)
        _write(first, URLS, sorted_by("row", _firsts(all_of, found, Path(place)), scratch))
        found.close()
        _write(copies, _COPIES, sorted_by("first", found.batches(0), scratch))
    return _batches(first), copies


def _firsts(all_of: Path, copies: Parts, scratch: Path) -> Iterator[pa.Table]:
    """The first row of each URL, schema `URLS`, in any order; the others are added to `copies`."""
    with engine(scratch, rows := _count([all_of]), PART_MB) as connection:
        parts = hashed_parts(connection, f"select * from {read_parquet([all_of])}", "asked", scratch / "asked", rows)
        for number in range(len(parts)):
            load(connection, "asked", parts.schema, parts.batches(number))
            parts.discard(number)
            connection.execute(
                'create or replace table firsts as select asked, min("row") as first, count(*) as n from asked group by asked'
            )
            others = (
                'select a."row", f.first from asked a join firsts f using (asked) where f.n > 1 and a."row" <> f.first'
            )
            for batch in connection.sql(others).to_arrow_reader(ROWS_AT_ONCE):
                copies.add(pa.table(batch).cast(_COPIES), np.zeros(len(batch), np.int64))
            reader = connection.sql('select first as "row", asked as url from firsts').to_arrow_reader(ROWS_AT_ONCE)
            yield from (pa.table(batch).cast(URLS) for batch in reader)


def all_states(files: Iterable[Path], copies: Path | None, ingest: str, scratch: Path) -> Iterator[pa.Table]:
    """Every state in some files (schema `STATE`) and those of rows that have the bytes of another, by ascending row.

    copies: as of `first_of_each`. ingest: the name of this one, where those bytes lie.
    """
    states = sorted_by("row", (rows for file in files for rows in _batches(file)), scratch)
    if copies is None or not _count([copies]):
        yield from states
        return
    ordered = scratch / "states.parquet"
    _write(ordered, STATE, states)
    yield from sorted_by("row", chain(_batches(ordered), _copied(copies, _batches(ordered), ingest)), scratch)


def _copied(copies: Path, states: Iterator[pa.Table], ingest: str) -> Iterator[pa.Table]:
    """The states of rows that have the bytes of another; states: by ascending row, as copies are by that of the other."""
    held = STATE.empty_table()
    for some in _batches(copies):
        firsts, parts = some["first"].unique(), [held]
        while not parts[-1].num_rows or parts[-1]["row"][-1].as_py() < firsts[-1].as_py():
            if (more := next(states, None)) is None:
                break
            parts.append(
                more.filter(pc.is_in(more["row"], firsts)) if more["row"][-1].as_py() < firsts[-1].as_py() else more
            )
        held = pa.concat_tables(parts)
        held = held.filter(pc.greater_equal(held["row"], firsts[0]))
        mine = held.take(pc.index_in(some["first"], held["row"].combine_chunks()))
        columns = {name: mine[name] for name in STATE.names} | {"row": some["row"], "raw_row": some["first"]}
        columns["ingest"] = pa.array([ingest] * some.num_rows, pa.string())
        yield pa.table(columns).select(STATE.names).cast(STATE)


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
    with pq.ParquetFile(path, pre_buffer=False) as source:
        yield from map(pa.table, source.iter_batches(ROWS_AT_ONCE))


def _count(files: Iterable[Path]) -> int:
    return sum(pq.read_metadata(file).num_rows for file in files)
