"""Which kept picture a dropped one is nearest to, by the hashes that near duplicates are found by."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pangu.data.table.numbered_rows import NumberedRows


class Twin(NamedTuple):
    """The nearest kept row: its place, bits of 64 that differ, and the largest difference of 4 x 4 mean colours."""

    place: int
    bits: int
    colour: int


def twins_of(dropped: pa.Table, kept: NumberedRows) -> list[Twin | None]:
    """For each row (columns `phash`, `colours`) the nearest of `kept`: fewest bits first, then colour. None where it has no hash.

    Looks at every kept row once, some at a time.
    """
    has = [phash is not None and colours is not None for phash, colours in _pairs(dropped)]
    mine = dropped.filter(pa.array(has))
    if not mine.num_rows:
        return [None] * dropped.num_rows
    hashes, colours = _hashes(mine), _colours(mine)
    best = np.full(len(hashes), np.iinfo(np.int64).max)
    places = np.zeros(len(hashes), np.int64)
    for start, rows in kept.each(["phash", "colours"]):
        there = [phash is not None and own is not None for phash, own in _pairs(rows)]
        usable, at = rows.filter(pa.array(there)), np.flatnonzero(there)
        if not len(at):
            continue
        others, theirs = _hashes(usable), _colours(usable)
        for number, one in enumerate(hashes):
            bits = np.bitwise_count(others ^ one).astype(np.int64)
            near = np.flatnonzero(bits == bits.min())
            far = np.abs(theirs[near] - colours[number]).max(axis=1)
            score = int(bits.min()) * 256 + int(far.min())
            if score < best[number]:
                best[number], places[number] = score, start + at[near[int(far.argmin())]]
    found = iter(
        Twin(int(place), int(score) // 256, int(score) % 256) for place, score in zip(places, best, strict=True)
    )
    return [next(found) if one else None for one in has]


def _pairs(rows: pa.Table) -> zip:
    return zip(rows["phash"].to_pylist(), rows["colours"].to_pylist(), strict=True)


def _hashes(rows: pa.Table) -> np.ndarray:
    """(N,) unsigned numbers of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(rows["phash"].to_pylist())), ">u8").astype(np.uint64)


def _colours(rows: pa.Table) -> np.ndarray:
    """(N, 48), signed, so that they can be subtracted."""
    return np.frombuffer(b"".join(rows["colours"].to_pylist()), np.uint8).reshape(rows.num_rows, -1).astype(np.int16)
