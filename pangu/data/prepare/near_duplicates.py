"""Near duplicates: which of many pictures show the same thing, by perceptual hash and coarse colours.

A hash sees shapes and no colour, so drawings that differ in colour alone share one; 4 x 4 mean colours tell them apart.
Hashes that differ in at most k of 64 bits agree in at least g of any k + g bands of bits (Norouzi et al. 2012, multi-index
hashing), so only pictures are compared that share some g bands.
"""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pangu.data.images import ImageHWC
from pangu.data.table.spilling import stream
from pangu.errors import UserError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BITS = 64
GRID = 4
COLOURS = GRID * GRID * 3
"""Bytes of `colours_of`."""
MOST_SLOTS = 120
"""So many choices of g bands are looked at, at most."""
MOST_PAIRS = 2 * 10**9
"""More comparisons than this are avoided by deciding about some pictures first, where that helps."""
MOST_PAIRS_AT_ALL = 2 * 10**10
PAIR_COST = 0.2
"""Of a comparison, where 1 is what sorting one picture costs, and pictures share ten times what chance lets random bits share."""
PART_PICTURES = 200_000
"""So many are compared with each other, or grouped, at once, of however many."""
SORTED_AT_ONCE = 500_000
"""Of all rows: a sort of more takes more memory than the connection has."""
SAMPLED = 4096
"""Of the rows, to divide them into ranges of about one size."""
PICTURES = pa.schema([("rank", pa.int64()), ("place", pa.int64()), ("phash", pa.uint64()), ("colours", pa.binary())])
OTHERS = pa.schema([("phash", pa.uint64()), ("colours", pa.binary())])
_FEW_COLOURS = "('0x' || hex(colours[16:21] || colours[31:32]))::ubigint"
"""Eight bytes of the middle of a picture, which tell most of those apart that all 48 tell apart."""


def colours_of(image_hwc: ImageHWC) -> bytes:
    """Mean colours of a 4 x 4 grid, 48 bytes."""
    return Image.fromarray(image_hwc).resize((GRID, GRID), Image.Resampling.BOX).tobytes()


def near_duplicates(
    connection: "DuckDBPyConnection", max_bits: int, max_colour: int, most_pairs: int = MOST_PAIRS
) -> Iterator[pa.Table]:
    """Which pictures are near one of `others`, or near one of a lower rank that is itself kept.

    Holds one bit a picture; everything else lies in tables of the connection, which must hold `pictures` (schema `PICTURES`;
    ranks from 0, the most wanted first) and `others` (schema `OTHERS`).

    Returns:
        `place` of each in ascending order, with the `reason`: in_other_dataset or near_duplicate.

    Raises:
        UserError: too many pictures look so much alike that hashes do not tell them apart.
    """
    query, search = connection.execute, _Search(connection, max_bits, max_colour)
    # Numbers below 0, before all ranks.
    query("create table numbered as select -1 - row_number() over () as id, phash, colours from others")
    query("create view coloured as select rank as id, colours from pictures union all select id, colours from numbered")
    # Of equal ones (hash, and 64 bits of MD5 of the colours) the first decides for all: the others are near it, and near whatever
    # it is near.
    query("create table led (place bigint, rank bigint, leader bigint)")
    query("create table leaders (id bigint, phash ubigint, hint ubigint)")
    facts = f"rank, place, phash, md5_number_lower(hex(colours)) as look, {_FEW_COLOURS} as hint"
    query(f"create table looks as select {facts} from pictures")
    for part in search.parts("select * from looks", "phash"):
        query(f"insert into led select place, rank, min(rank) over (partition by phash, look) from {part}")
        query(f"insert into leaders select min(rank), phash, first(hint) from {part} group by phash, look")
    query("drop table looks")
    query("create table hit (rank bigint)")
    query("create table dropped (rank bigint)")
    if search.number("select count(*) from numbered"):
        others = f"select id, phash, {_FEW_COLOURS} as hint, true as ahead from numbered"
        search.compare(f"select *, false as ahead from leaders union all {others}", by_side=True)
        search.keep_near("hit", "later")
        query("delete from leaders where id in (select rank from hit)")
    _compare_leaders(search, most_pairs)
    query("create table edges (earlier bigint, later bigint)")
    search.keep_near("edges", "earlier", "later")
    keep(connection, "dropped", greedy(connection))
    query("create table marked (place bigint, other boolean)")
    for part in search.parts("select * from led", "leader"):
        query(
            f"insert into marked select place, h.rank is not null from {part} l"
            " left join (select distinct rank from hit) h on h.rank = l.leader"
            " left join (select distinct rank from dropped) d on d.rank = l.leader"
            " where h.rank is not null or d.rank is not null or l.rank <> l.leader"
        )
    for batch in stream(connection, "select * from marked order by place", 65_536):
        reasons = pc.if_else(batch["other"], "in_other_dataset", "near_duplicate")
        yield pa.table([batch["place"], reasons], names=["place", "reason"])


def _slots(max_bits: int, pictures: int) -> list[str]:
    """What pictures may share, as SQL on a hash: every choice of g bands, with the g that costs least.

    More bands are more choices, each a sort of all pictures, and fewer pairs that share one by chance.
    """
    costs = {}
    for agreeing in range(1, BITS - max_bits + 1):
        choices = math.comb(max_bits + agreeing, agreeing)
        by_chance = pictures / 2.0 ** (BITS * agreeing / (max_bits + agreeing))
        if choices <= max(MOST_SLOTS, max_bits + 1):
            costs[agreeing] = choices * (1 + PAIR_COST * by_chance)
    agreeing = min(costs, key=costs.__getitem__)
    edges = np.linspace(0, BITS, max_bits + agreeing + 1).astype(int).tolist()
    masks = [((1 << (high - low)) - 1) << low for low, high in pairwise(edges)]
    return [f"(phash & {sum(chosen)}::ubigint)" for chosen in combinations(masks, agreeing)]


class _Search:
    """Near pairs among the rows of a table; what is near by its hash and few colours comes into `candidates`, whose colours are
    compared here."""

    def __init__(self, connection: "DuckDBPyConnection", max_bits: int, max_colour: int) -> None:
        self.connection, self._max_bits, self._max_colour = connection, max_bits, max_colour
        self.slots = _slots(max_bits, self.number("select count(*) from pictures"))

    def number(self, question: str) -> int:
        [row] = self.connection.execute(question).fetchall()
        return int(row[0] or 0)

    def parts(self, rows: str, value: str) -> Iterator[str]:
        """The rows of a query, one part after the other, each as a source in SQL; those of equal `value` are in one.

        They are sorted, so a part is read without the others.
        """
        query = self.connection.execute
        query(f"create or replace table ordered as select * from ({rows}) limit 0")
        for condition in self._ranges(rows, value):
            query(f"insert into ordered select * from ({rows}) where {condition} order by {value}")
        asked = f"select distinct {value} from ordered where rowid % {PART_PICTURES} = 0 order by 1"
        starts = [start for (start,) in query(asked).fetchall()]
        for condition in _between(value, starts[1:]):
            yield f"(select * from ordered where {condition})"

    def _ranges(self, rows: str, value: str) -> list[str]:
        """Conditions in ascending order, each true of few enough rows to be sorted at once: a sort of all takes more memory."""
        count = self.number(f"select count(*) from ({rows})")
        asked = f"select {value} as value from ({rows}) using sample reservoir({SAMPLED} rows) repeatable (0)"
        sample = sorted(found for (found,) in self.connection.execute(asked).fetchall())
        ranges = -(-count // SORTED_AT_ONCE)
        return _between(value, sorted({sample[len(sample) * number // ranges] for number in range(1, ranges)}))

    def compare(self, rows: str, *, most_pairs: float = math.inf, by_side: bool = False) -> bool:
        """Fill `candidates` with pairs of rows, `earlier` below `later`.

        rows: SQL with id, phash, hint. most_pairs: gives up, False, before more than so many are compared. by_side: of rows that
        are `ahead` with rows that are not.
        """
        self.connection.execute("create or replace table candidates (earlier bigint, later bigint)")
        further = " and a.ahead and not b.ahead" if by_side else ""
        near = f"where bit_count(xor(a.phash, b.phash)) <= {self._max_bits}"
        compared = 0
        for slot in self.slots:
            parts = list(self.parts(f"select *, {slot} as shared from ({rows})", "shared"))
            for part in parts:
                compared += self.number(
                    f"select sum(n * (n - 1) // 2) from (select count(*) as n from {part} group by shared)"
                )
            if compared > most_pairs:
                return False
            for part in parts:
                pairs = f"{part} a join {part} b on a.shared = b.shared and a.id < b.id{further}"
                asked = f"select a.id as earlier, b.id as later, a.hint as one, b.hint as other from {pairs} {near}"
                keep(self.connection, "candidates", self._near(asked, _few_colours))
        return True

    def keep_near(self, table: str, *columns: str) -> None:
        """Add these columns of the candidates to a table, of those whose colours are near."""
        for part in self.parts("select * from candidates", "earlier"):
            self.connection.execute(f"create or replace table few as select distinct earlier, later from {part}")
            asked = "select earlier, later, a.colours as one, b.colours as other from few"
            asked += " join coloured a on a.id = earlier join coloured b on b.id = later"
            near = (pairs.select(columns) for pairs in self._near(asked, _colours))
            keep(self.connection, table, near)

    def _near(self, asked: str, unpacked: Callable[[pa.Array], np.ndarray]) -> Iterator[pa.Table]:
        """Of pairs with `one` and `other`, those whose colours are near."""
        # A cursor of its own: what is found goes into a table while the question is still being answered.
        for batch in stream(self.connection, asked, 65_536):
            distance = np.abs(unpacked(batch["one"]) - unpacked(batch["other"])).max(axis=1, initial=0)
            yield pa.table(batch).drop_columns(["one", "other"]).filter(pa.array(distance <= self._max_colour))


def _between(value: str, edges: list[int]) -> list[str]:
    """What is true of values below the first edge, from each to the next, and from the last on."""
    return [
        " and ".join([f"{value} >= {start}"] * (start is not None) + [f"{value} < {end}"] * (end is not None)) or "true"
        for start, end in pairwise([None, *edges, None])
    ]


def keep(connection: "DuckDBPyConnection", table: str, batches: Iterator[pa.Table]) -> None:
    """Add rows to a table."""
    for batch in batches:
        if batch.num_rows:
            connection.register("more", batch)
            connection.execute(f"insert into {table} select * from more")
            connection.unregister("more")


def _colours(values: pa.Array) -> np.ndarray:
    """(N, 48) of N times 48 bytes; signed, so that they can be subtracted."""
    packed = values.cast(pa.binary(COLOURS))
    flat = np.frombuffer(packed.buffers()[1], np.uint8)
    start = packed.offset * COLOURS
    return flat[start : start + len(packed) * COLOURS].reshape(-1, COLOURS).astype(np.int16)


def _few_colours(values: pa.Array) -> np.ndarray:
    """(N, 8) of N numbers of `_FEW_COLOURS`; signed."""
    return np.ascontiguousarray(values.to_numpy()).view(np.uint8).reshape(-1, 8).astype(np.int16)


def _compare_leaders(search: _Search, most_pairs: int) -> None:
    """Fill `candidates`. Where many pictures share slots, decide about those first that nothing can stand in the way of.

    A picture with the lowest rank among all that share any slot with it is kept for sure, and whatever is near it is dropped;
    neither has to be compared any more. So a thousand copies of one picture cost a thousand comparisons, not half a million.
    """
    query = search.connection.execute
    while not search.compare("select * from leaders", most_pairs=most_pairs):
        before = search.number("select count(*) from leaders")
        query("create or replace table first (id bigint)")
        for slot in search.slots:
            for part in search.parts(f"select id, {slot} as shared from leaders", "shared"):
                query(f"insert into first select min(id) from {part} group by shared")
        query("create or replace table sure (id bigint)")
        for part in search.parts("select id from first", "id"):
            query(f"insert into sure select id from {part} group by id having count(*) = {len(search.slots)}")
        search.compare("select l.*, s.id is not null as ahead from leaders l left join sure s using (id)", by_side=True)
        query("create or replace table found (id bigint)")
        search.keep_near("found", "later")
        query("insert into dropped select distinct id from found")
        query("delete from leaders where id in (select id from found union all select id from sure)")
        left = search.number("select count(*) from leaders")
        if before - left < before // 1000 + 1:
            if search.compare("select * from leaders", most_pairs=MOST_PAIRS_AT_ALL):
                return
            raise UserError(
                f"{left:,} pictures have perceptual hashes so much alike that more than {MOST_PAIRS_AT_ALL:,} pairs would have to"
                " be compared; set filters.near_duplicates.max_bits lower."
            )


def greedy(connection: "DuckDBPyConnection") -> Iterator[pa.Table]:
    """Of the pairs in the table `edges`, the ranks that are near one of a lower rank which is kept itself: a bit a picture."""
    [(last,)] = connection.execute("select max(later) from edges").fetchall()
    dropped = np.zeros((last or 0) // 8 + 1, np.uint8)
    asked = "select distinct later, earlier from edges order by later, earlier"
    for batch in stream(connection, asked, 65_536):
        found = []
        for later, earlier in zip(batch["later"].to_pylist(), batch["earlier"].to_pylist(), strict=True):
            is_kept = not dropped[earlier >> 3] >> (earlier & 7) & 1
            if is_kept and not dropped[later >> 3] >> (later & 7) & 1:
                dropped[later >> 3] |= 1 << (later & 7)
                found.append(later)
        yield pa.table({"rank": pa.array(found, pa.int64())})
