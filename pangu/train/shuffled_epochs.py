"""The order of trainings that began before it was computed: each epoch's rows are shuffled as a whole and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pangu.train.bucket_parts import BucketPart
from pangu.train.rows_by_bucket import RowsByBucket


@dataclass(frozen=True, eq=False)  # the cache of epochs would hash all rows at every step
class ShuffledEpochs:
    """The batches of each epoch. Holds 8 bytes a row of a list of rows, and 8 of each of the two latest epochs."""

    rows: RowsByBucket
    parts: Mapping[int, Sequence[BucketPart]]
    batches_of: Mapping[int, int]
    batch_size: int
    seed: int

    def batches(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """(M, batch_size): the rows of batches (M,) of the epoch."""
        return _epoch(self, epoch)[numbers]

    @cached_property
    def _repeated(self) -> dict[int, list["_Repeated"]]:
        return {
            bucket: [
                # The last number is not 0, which is what the seeds of epochs end in.
                _Repeated(self._rows_of(part), part, (self.seed, bucket, part.number, 1))
                for part in parts
            ]
            for bucket, parts in self.parts.items()
        }

    def _rows_of(self, part: BucketPart) -> np.ndarray:
        return self.rows.at(part.bucket, np.arange(part.first, part.first + part.rows))


@dataclass(frozen=True, eq=False)
class _Repeated:
    """The rows (N,) of one part."""

    rows: np.ndarray
    part: BucketPart
    seed: tuple[int, ...]

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Every row as often as the weight is whole, and a share of the rows once more for the rest of it."""
        repeated, share = np.tile(self.rows, self.part.whole), self.part.share(epoch)
        if not len(share):
            return repeated
        return np.concatenate([repeated, self._order[np.arange(share.start, share.stop) % len(self.rows)]])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(self.seed)).permutation(self.rows)


@lru_cache(maxsize=2)
def _epoch(epochs: ShuffledEpochs, epoch: int) -> np.ndarray:
    """All batches of one epoch, (batches, batch_size)."""
    generator = np.random.Generator(np.random.PCG64([epochs.seed, epoch]))
    batches = []
    for bucket, parts in epochs._repeated.items():
        shuffled = generator.permutation(np.concatenate([part.of_epoch(epoch) for part in parts]))
        whole = epochs.batches_of[bucket] * epochs.batch_size
        batches.append(shuffled[:whole].reshape(-1, epochs.batch_size))
    joined = np.concatenate(batches)
    return joined[generator.permutation(len(joined))]
