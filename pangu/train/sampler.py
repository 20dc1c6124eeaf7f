"""The sample sampler: which rows make up which optimizer step.

A pure function of (seed, rows, batch size, step): the same on one worker or many, and nothing to save but the step.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pangu.errors import UserError


@dataclass(frozen=True, eq=False)  # the cache of epochs would hash all rows at every step
class DeterministicSampler:
    """Seeded epochs over rows in buckets; a batch never mixes buckets.

    bucket_of_row: the preset index of each row, in the order of the sorted row keys.
    """

    bucket_of_row: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        for bucket, rows in self._rows_of_bucket.items():
            if len(rows) < self.batch_size:
                raise UserError(
                    f"Bucket {bucket} has {len(rows)} rows, fewer than a batch of {self.batch_size}; "
                    f"lower batch_size in the recipe or add images of that shape."
                )

    def rows_of(self, step: int) -> np.ndarray:
        """Row indices (batch_size,) of optimizer step `step` >= 0.

        Every epoch draws each row at most once; the rows left over by incomplete batches change from epoch to epoch.
        """
        per_epoch = sum(len(rows) // self.batch_size for rows in self._rows_of_bucket.values())
        return _epoch(self, step // per_epoch)[step % per_epoch]

    @cached_property
    def _rows_of_bucket(self) -> dict[int, np.ndarray]:
        buckets = np.asarray(self.bucket_of_row)
        return {int(bucket): np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)}


@lru_cache(maxsize=4)
def _epoch(sampler: DeterministicSampler, epoch: int) -> np.ndarray:
    """All batches of one epoch, (batches, batch_size)."""
    generator = np.random.Generator(np.random.PCG64([sampler.seed, epoch]))
    batches = []
    for rows in sampler._rows_of_bucket.values():
        shuffled = generator.permutation(rows)
        whole = len(rows) // sampler.batch_size * sampler.batch_size
        batches.append(shuffled[:whole].reshape(-1, sampler.batch_size))
    joined = np.concatenate(batches)
    return joined[generator.permutation(len(joined))]
