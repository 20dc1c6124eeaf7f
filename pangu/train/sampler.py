"""The sample sampler: which rows make up which optimizer step.

A pure function of (seed, rows, batch size, step): the same on one worker or many, and nothing to save but the step.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from math import floor

import numpy as np

from pangu.data.rows.training_rows import Share
from pangu.errors import UserError


@dataclass(frozen=True, eq=False)  # the cache of epochs would hash all rows at every step
class DeterministicSampler:
    """Seeded epochs over rows in buckets; a batch never mixes buckets.

    bucket_of_row: the preset index of each row, in the order of the sorted row keys.
    shares: of a mixture, how many of the rows each part has, in their order, and its weight; (): every row once an epoch.
    """

    bucket_of_row: tuple[int, ...]
    batch_size: int
    seed: int
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        for bucket, rows in self._least_of_bucket.items():
            if rows < self.batch_size:
                raise UserError(
                    f"Bucket {bucket} has {rows} rows, fewer than a batch of {self.batch_size}; "
                    f"lower batch_size in the recipe or add images of that shape."
                )

    def rows_of(self, step: int) -> np.ndarray:
        """Row indices (batch_size,) of optimizer step `step` >= 0.

        Every epoch draws each row of weight 1 at most once; the rows left over by incomplete batches change from epoch to epoch.
        """
        per_epoch = sum(rows // self.batch_size for rows in self._least_of_bucket.values())
        return _epoch(self, step // per_epoch)[step % per_epoch]

    @cached_property
    def _least_of_bucket(self) -> dict[int, int]:
        """Rows that every epoch has at least: so many batches have all epochs, whatever the fractions of weights add."""
        return {bucket: sum(part.least for part in parts) for bucket, parts in self._parts_of_bucket.items()}

    @cached_property
    def _parts_of_bucket(self) -> dict[int, list["_Repeated"]]:
        buckets = np.asarray(self.bucket_of_row)
        shares = self.shares or (Share(len(buckets), 1.0),)
        ends = np.cumsum([share.rows for share in shares])
        assert ends[-1] == len(buckets), f"{ends[-1]} rows of a mixture, {len(buckets)} in buckets"
        found: dict[int, list[_Repeated]] = {}
        for bucket in np.unique(buckets).tolist():
            rows = np.flatnonzero(buckets == bucket)
            own = np.split(rows, np.searchsorted(rows, ends[:-1]))
            # The last number is not 0, which is what the seeds of epochs end in.
            found[bucket] = [
                _Repeated(mine, Fraction(repr(share.weight)), (self.seed, bucket, part, 1))
                for part, (mine, share) in enumerate(zip(own, shares, strict=True))
                if len(mine)
            ]
        return found


@dataclass(frozen=True, eq=False)
class _Repeated:
    """The rows (N,) of one part of a mixture in one bucket. weight: exact, so that 0.29 of 100 rows are 29."""

    rows: np.ndarray
    weight: Fraction
    seed: tuple[int, ...]

    @property
    def least(self) -> int:
        """Of `of_epoch`."""
        return floor(self.weight * len(self.rows))

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Every row as often as the weight is whole, and a share of the rows once more for the rest of it.

        That share goes round in a seeded order from epoch to epoch, so no row is ever ahead of another by more than one turn.
        """
        whole = floor(self.weight)
        turns = (self.weight - whole) * len(self.rows)
        more = np.arange(floor(epoch * turns), floor((epoch + 1) * turns)) % len(self.rows)
        return (
            np.concatenate([np.tile(self.rows, whole), self._order[more]]) if len(more) else np.tile(self.rows, whole)
        )

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(self.seed)).permutation(self.rows)


@lru_cache(maxsize=4)
def _epoch(sampler: DeterministicSampler, epoch: int) -> np.ndarray:
    """All batches of one epoch, (batches, batch_size)."""
    generator = np.random.Generator(np.random.PCG64([sampler.seed, epoch]))
    batches = []
    for bucket, parts in sampler._parts_of_bucket.items():
        shuffled = generator.permutation(np.concatenate([part.of_epoch(epoch) for part in parts]))
        whole = sampler._least_of_bucket[bucket] // sampler.batch_size * sampler.batch_size
        batches.append(shuffled[:whole].reshape(-1, sampler.batch_size))
    joined = np.concatenate(batches)
    return joined[generator.permutation(len(joined))]
