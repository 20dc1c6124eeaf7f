"""The sample sampler: which rows make up which optimizer step.

A pure function of (seed, rows, batch size, step): the same on one worker or many, and nothing to save but the step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pangu.data.rows.training_rows import Share
from pangu.errors import UserError
from pangu.train.bucket_parts import BucketPart, bucket_parts
from pangu.train.keyed_epochs import KeyedEpochs
from pangu.train.rows_by_bucket import RowsByBucket
from pangu.train.shuffled_epochs import ShuffledEpochs

RowOrder = Literal["shuffled", "keyed"]
"""How the order of an epoch comes about: shuffled and kept, as trainings began that are older than the other, or computed."""
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class DeterministicSampler:
    """Seeded epochs over rows in buckets; a batch never mixes buckets.

    bucket_of_row: the preset index of each row, in the order of the sorted row keys; an array may lie in a file.
    shares: of a mixture, how many of the rows each part has, in their order, and its weight; (): every row once an epoch.
    """

    bucket_of_row: Sequence[int] | np.ndarray
    batch_size: int
    seed: int
    shares: tuple[Share, ...] = ()
    order: RowOrder = "keyed"

    def __post_init__(self) -> None:
        for bucket, parts in self._parts.items():
            if (rows := _least(parts)) < self.batch_size:
                raise UserError(
                    f"Bucket {bucket} has {rows} rows, fewer than a batch of {self.batch_size}; "
                    f"lower batch_size in the recipe or add images of that shape."
                )

    def rows_of(self, step: int) -> np.ndarray:
        """Row indices (batch_size,) of optimizer step `step` >= 0.

        Every epoch draws each row of weight 1 at most once; the rows left over by incomplete batches change from epoch to epoch.
        """
        return next(self.batches(step, step + 1))[0]

    def batches(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Row indices of steps [first, last), some steps at a time: (steps, batch_size)."""
        at_once = max(_ROWS_AT_ONCE // self.batch_size, 1)
        while first < last:
            epoch, number = divmod(first, self.steps_of_epoch)
            count = min(last - first, self.steps_of_epoch - number, at_once)
            yield self._epochs.batches(epoch, np.arange(number, number + count))
            first += count

    @cached_property
    def steps_of_epoch(self) -> int:
        """So many batches have all epochs, whatever the fractions of weights add."""
        return sum(self._epochs.batches_of.values())

    @cached_property
    def _epochs(self) -> KeyedEpochs | ShuffledEpochs:
        batches = {bucket: _least(parts) // self.batch_size for bucket, parts in self._parts.items()}
        kind = KeyedEpochs if self.order == "keyed" else ShuffledEpochs
        return kind(self._rows, self._parts, batches, self.batch_size, self.seed)

    @cached_property
    def _rows(self) -> RowsByBucket:
        return RowsByBucket(np.asarray(self.bucket_of_row))

    @cached_property
    def _parts(self) -> dict[int, list[BucketPart]]:
        return bucket_parts(self._rows, self.shares or (Share(len(self._rows), 1.0),))


def _least(parts: Sequence[BucketPart]) -> int:
    """Draws that every epoch has at least."""
    return sum(part.least for part in parts)
