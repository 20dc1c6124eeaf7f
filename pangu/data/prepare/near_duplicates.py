"""Near duplicates: which of many pictures show the same thing, by perceptual hash and coarse colours.

A hash sees shapes and no colour, so drawings that differ in colour alone share one; 4 x 4 mean colours tell them apart.
Hashes that differ in at most k of 64 bits agree in at least g of any k + g bands of bits (Norouzi et al. 2012, multi-index
hashing), so only pictures are compared that share some g bands.
"""

import math
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pangu.data.images import ImageHWC
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
PART_PICTURES = 200_000
"""So many are compared with each other, or grouped, at once, of however many."""
PICTURES = pa.schema([("rank", pa.int64()), ("place", pa.int64()), ("phash", pa.uint64()), ("colours", pa.binary())])
OTHERS = pa.schema([("phash", pa.uint64()), ("colours", pa.binary())])
_EDGES = pa.schema([("earlier", pa.int64()), ("later", pa.int64())])
_RANKS = pa.schema([("rank", pa.int64())])


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
    query, ask = connection.execute, _Ask(connection, max_bits, max_colour)
    # Of equal ones the first decides for all: the others are near it, and near whatever it is near.
    ask.in_parts(
        "create table alike (rank bigint, phash ubigint, colours blob)",
        "insert into alike select min(rank) as rank, phash, colours from pictures where {} group by phash, colours",
        "phash",
    )
    query("create table leaders as select * from alike")
    ask.in_parts(
        "create table distinct_others (phash ubigint, colours blob)",
        "insert into distinct_others select distinct phash, colours from others where {}",
        "phash",
    )
    query("create table hit (rank bigint)")
    query("create table dropped (rank bigint)")
    slots = _slots(max_bits, max(ask.number("select count(*) from alike"), 2))
    if ask.number("select count(*) from distinct_others"):
        for slot in slots:
            ask.keep("hit", ask.near_others(slot))
        query("delete from leaders where rank in (select rank from hit)")
    _decide_leaders(ask, slots, most_pairs)
    query("create table edges (earlier bigint, later bigint)")
    for slot in slots:
        ask.keep("edges", ask.near_pairs(slot))
    ask.keep("dropped", greedy(connection))
    ask.in_parts(
        "create table marked (place bigint, other boolean)",
        "insert into marked select p.place, h.rank is not null from (select * from pictures where {}) p"
        " join (select * from alike where {}) a using (phash, colours)"
        " left join (select distinct rank from hit) h on h.rank = a.rank"
        " left join (select distinct rank from dropped) d on d.rank = a.rank"
        " where h.rank is not null or d.rank is not null or p.rank <> a.rank",
        "phash",
    )
    for batch in connection.cursor().sql("select * from marked order by place").to_arrow_reader(65_536):
        reasons = pc.if_else(batch["other"], "in_other_dataset", "near_duplicate")
        yield pa.table([batch["place"], reasons], names=["place", "reason"])


def _slots(max_bits: int, pictures: int) -> list[str]:
    """What pictures may share, as SQL on a hash `{}`: every choice of g bands, g so large that few share one by chance."""
    agreeing = 1
    while (
        BITS * agreeing / (max_bits + agreeing) < min(math.log2(pictures), BITS - 1)
        and math.comb(max_bits + agreeing + 1, agreeing + 1) <= MOST_SLOTS
    ):
        agreeing += 1
    edges = np.linspace(0, BITS, max_bits + agreeing + 1).astype(int).tolist()
    masks = [((1 << (high - low)) - 1) << low for low, high in pairwise(edges)]
    return [f"({{}} & {sum(chosen)}::ubigint)" for chosen in combinations(masks, agreeing)]


class _Ask:
    """The questions to the tables; pairs come with their colours, which are compared here."""

    def __init__(self, connection: "DuckDBPyConnection", max_bits: int, max_colour: int) -> None:
        self.connection, self._max_bits, self._max_colour = connection, max_bits, max_colour

    def number(self, question: str) -> int:
        [row] = self.connection.execute(question).fetchall()
        return int(row[0] or 0)

    def in_parts(self, table: str, question: str, value: str) -> None:
        """Make a table, and fill it by a question that is asked of one part of the pictures after the other: `{}` is true of
        those of a part; rows of equal `value` are in one."""
        self.connection.execute(table)
        for condition in self._conditions("pictures", value):
            self.connection.execute(question.replace("{}", condition))

    def pairs(self, slot: str) -> int:
        """How many pairs of leaders share what the slot looks at."""
        value, found = slot.format("phash"), 0
        for condition in self._conditions("leaders", value):
            shared = f"select count(*) as n from leaders where {condition} group by {value}"
            found += self.number(f"select sum(n * (n - 1) // 2) from ({shared})")
        return found

    def near_others(self, slot: str) -> Iterator[pa.Table]:
        return self._near("a.rank", "leaders", "distinct_others", slot)

    def near_pairs(self, slot: str) -> Iterator[pa.Table]:
        return self._near("a.rank as earlier, b.rank as later", "leaders", "leaders", slot, "and a.rank < b.rank")

    def near_sure(self, slot: str) -> Iterator[pa.Table]:
        """Leaders near one that is `sure`, and first of those that share a slot with it."""
        return self._near("b.rank", "sure", "leaders", slot, "and a.rank < b.rank")

    def _near(self, what: str, one: str, other: str, slot: str, further: str = "") -> Iterator[pa.Table]:
        """What is asked of pairs that share a slot and are near each other."""
        value = slot.format("phash")
        for condition in self._conditions("leaders", value):
            a, b = (f"(select *, {value} as shared from {table} where {condition})" for table in (one, other))
            asked = f"select {what}, a.colours as one, b.colours as other from {a} a join {b} b on a.shared = b.shared {further}"
            asked += f" where bit_count(xor(a.phash, b.phash)) <= {self._max_bits}"
            # A cursor of its own: what is found goes into a table while the question is still being answered.
            for batch in self.connection.cursor().sql(asked).to_arrow_reader(65_536):
                distance = np.abs(_colours(batch["one"]) - _colours(batch["other"])).max(axis=1, initial=0)
                yield pa.table(batch).drop_columns(["one", "other"]).filter(pa.array(distance <= self._max_colour))

    def _conditions(self, table: str, value: str) -> list[str]:
        """What is true of each part of the rows of a table, if they are divided by a value: what is made of one part at a time
        takes no more memory of more rows."""
        parts = -(-self.number(f"select count(*) from {table}") // PART_PICTURES)
        return [f"hash({value}) % {parts} = {part}" for part in range(parts)] if parts > 1 else ["true"]

    def keep(self, table: str, batches: Iterator[pa.Table]) -> None:
        keep(self.connection, table, batches)


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


def _decide_leaders(ask: _Ask, slots: list[str], most_pairs: int) -> None:
    """Where many pictures share slots, decide about those first that nothing can stand in the way of.

    A picture with the lowest rank among all that share any slot with it is kept for sure, and whatever is near it is dropped;
    neither has to be compared any more. So a thousand copies of one picture cost a thousand comparisons, not half a million.
    """
    query = ask.connection.execute
    while (pairs := sum(map(ask.pairs, slots))) > most_pairs:
        before = ask.number("select count(*) from leaders")
        first = " union all ".join(
            f"select min(rank) as rank from leaders group by {slot.format('phash')}" for slot in slots
        )
        query(
            f"create or replace table sure as select l.* from leaders l join (select rank from ({first}) group by rank"
            f" having count(*) = {len(slots)}) using (rank)"
        )
        query("create or replace table found (rank bigint)")
        for slot in slots:
            ask.keep("found", ask.near_sure(slot))
        query("insert into dropped select distinct rank from found")
        query("delete from leaders where rank in (select rank from found union all select rank from sure)")
        left = ask.number("select count(*) from leaders")
        if before - left < before // 1000 + 1 and pairs > MOST_PAIRS_AT_ALL:
            raise UserError(
                f"{left:,} pictures have perceptual hashes so much alike that {pairs:,} pairs would have to be compared; set "
                "filters.near_duplicates.max_bits lower."
            )
        if before - left < before // 1000 + 1:
            return


def greedy(connection: "DuckDBPyConnection") -> Iterator[pa.Table]:
    """Of the pairs in the table `edges`, the ranks that are near one of a lower rank which is kept itself: a bit a picture."""
    [(last,)] = connection.execute("select max(later) from edges").fetchall()
    dropped = np.zeros((last or 0) // 8 + 1, np.uint8)
    asked = "select distinct later, earlier from edges order by later, earlier"
    for batch in connection.cursor().sql(asked).to_arrow_reader(65_536):
        found = []
        for later, earlier in zip(batch["later"].to_pylist(), batch["earlier"].to_pylist(), strict=True):
            is_kept = not dropped[earlier >> 3] >> (earlier & 7) & 1
            if is_kept and not dropped[later >> 3] >> (later & 7) & 1:
                dropped[later >> 3] |= 1 << (later & 7)
                found.append(later)
        yield pa.table({"rank": pa.array(found, pa.int64())})
