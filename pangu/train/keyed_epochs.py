"""The order of a training as a function of the place in it: which rows a batch has is computed, nothing is kept for a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pangu.train.bucket_parts import BucketPart
from pangu.train.keyed_permutation import KeyedPermutation
from pangu.train.rows_by_bucket import RowsByBucket

_BATCHES, _DRAWS, _TURNS = range(3)
"""What a permutation is of: the batches of an epoch, the draws of a bucket in one, the rows of a part that take turns."""


@dataclass(frozen=True, eq=False)
class KeyedEpochs:
    """The batches of each epoch: a permutation of all of them, and one of the draws of each bucket, keyed by seed and epoch."""

    rows: RowsByBucket
    parts: Mapping[int, Sequence[BucketPart]]
    batches_of: Mapping[int, int]
    batch_size: int
    seed: int

    def batches(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """(M, batch_size): the rows of batches (M,) of the epoch."""
        total = int(self._ends[-1])
        batches = KeyedPermutation(total, (_BATCHES, self.seed, epoch))(numbers)
        bucket_m = np.searchsorted(self._ends, batches, side="right")
        rows = np.empty((len(numbers), self.batch_size), np.int64)
        for index, bucket in enumerate(self.batches_of):
            if len(own := np.flatnonzero(bucket_m == index)):
                first = (batches[own] - int(self._ends[index]) + self.batches_of[bucket]) * self.batch_size
                places = (first[:, None] + np.arange(self.batch_size)).ravel()
                rows[own] = self.draws(bucket, epoch, places).reshape(-1, self.batch_size)
        return rows

    def draws(self, bucket: int, epoch: int, places: np.ndarray) -> np.ndarray:
        """The rows that are drawn at places (M,) of the bucket's epoch."""
        parts = self.parts[bucket]
        ends = np.cumsum([part.draws(epoch) for part in parts])
        draws = KeyedPermutation(int(ends[-1]), (_DRAWS, self.seed, bucket, epoch))(places)
        part_m, found = np.searchsorted(ends, draws, side="right"), np.empty(len(draws), np.int64)
        for index, part in enumerate(parts):
            if len(own := np.flatnonzero(part_m == index)):
                found[own] = part.first + self._row_of(part, epoch, draws[own] - int(ends[index]) + part.draws(epoch))
        return self.rows.at(bucket, found)

    def _row_of(self, part: BucketPart, epoch: int, draws: np.ndarray) -> np.ndarray:
        """Every row as often as the weight is whole; the draws behind those are the epoch's share of the order of turns."""
        repeated = part.whole * part.rows
        found, more = draws % part.rows, draws >= repeated
        if more.any():
            turns = (part.share(epoch).start + draws[more] - repeated) % part.rows
            found[more] = KeyedPermutation(part.rows, (_TURNS, self.seed, part.bucket, part.number))(turns)
        return found

    @cached_property
    def _ends(self) -> np.ndarray:
        """How many batches of an epoch are of each bucket or of one before it."""
        return np.cumsum(list(self.batches_of.values()))
