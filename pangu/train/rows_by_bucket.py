"""Which rows are in a bucket, found from counts of blocks of rows, so that no list of rows is kept."""

from collections.abc import Iterator

import numpy as np

BLOCK = 2048
"""Rows that are counted together, and looked through to find one of them."""
_AT_ONCE = 512 * BLOCK


class RowsByBucket:
    """The rows of each bucket in their order.

    bucket_n: (N,) integers >= 0, read where rows are asked for, so that they may lie in a file. Kept is how many rows of each
    bucket lie before each block: 8 bytes for `BLOCK` rows and a bucket, and nothing where there is one bucket.
    """

    def __init__(self, bucket_n: np.ndarray) -> None:
        self._bucket_n = bucket_n
        highest = max((int(part.max()) for _, part in _in_parts(bucket_n)), default=-1)
        counts_kb = np.zeros((-(-len(bucket_n) // BLOCK), highest + 1), np.int64)
        for start, part in _in_parts(bucket_n):
            block = np.arange(len(part)) // BLOCK
            found = np.bincount(block * (highest + 1) + part, minlength=(int(block[-1]) + 1) * (highest + 1))
            counts_kb[start // BLOCK :][: int(block[-1]) + 1] = found.reshape(-1, highest + 1)
        totals = counts_kb.sum(0)
        self.counts = {int(bucket): int(totals[bucket]) for bucket in np.flatnonzero(totals)}
        ends = {bucket: counts_kb[:, bucket].cumsum() for bucket in self.counts} if len(self.counts) > 1 else {}
        self._before = {bucket: np.concatenate([[0], end]) for bucket, end in ends.items()}

    def __len__(self) -> int:
        return len(self._bucket_n)

    def before(self, bucket: int, row: int) -> int:
        """How many of the rows [0, row) are in the bucket."""
        if bucket not in self._before:
            return row
        block = row // BLOCK
        return int(self._before[bucket][block]) + int((self._bucket_n[block * BLOCK : row] == bucket).sum())

    def at(self, bucket: int, places: np.ndarray) -> np.ndarray:
        """The row that stands at each place (M,) among those of the bucket."""
        if bucket not in self._before:
            return places.astype(np.int64)
        before = self._before[bucket]
        blocks = np.searchsorted(before, places, side="right") - 1
        rows, order = np.empty(len(places), np.int64), np.argsort(blocks, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1) if len(order) else ():
            block = int(blocks[own[0]])
            found = np.flatnonzero(self._bucket_n[block * BLOCK : (block + 1) * BLOCK] == bucket)
            rows[own] = block * BLOCK + found[places[own] - before[block]]
        return rows

    def first(self) -> dict[int, int]:
        """Bucket -> the first of its rows."""
        return {bucket: int(self.at(bucket, np.zeros(1, np.int64))[0]) for bucket in self.counts}


def _in_parts(bucket_n: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Some whole blocks at a time, and the row that each begins with."""
    for start in range(0, len(bucket_n), _AT_ONCE):
        yield start, np.asarray(bucket_n[start : start + _AT_ONCE], np.int64)
