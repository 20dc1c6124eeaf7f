"""The rows of one bucket by the datasets that they are of, and how often each appears in an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import floor

from pangu.data.rows.training_rows import Share
from pangu.train.rows_by_bucket import RowsByBucket


@dataclass(frozen=True)
class BucketPart:
    """The rows of one dataset in one bucket.

    first: the place of its first row among those of the bucket; number: of the dataset; weight: exact, so that 0.29 of 100 rows
    are 29.
    """

    bucket: int
    number: int
    first: int
    rows: int
    weight: Fraction

    @property
    def whole(self) -> int:
        """How often every row appears in an epoch."""
        return floor(self.weight)

    @property
    def least(self) -> int:
        """How many draws every epoch has at least."""
        return floor(self.weight * self.rows)

    def share(self, epoch: int) -> range:
        """Places in the order in which the rows of a fraction take turns, to be taken modulo `rows`.

        They go round from epoch to epoch, so no row is ever ahead of another by more than one turn.
        """
        turns = (self.weight - self.whole) * self.rows
        return range(floor(epoch * turns), floor((epoch + 1) * turns))

    def draws(self, epoch: int) -> int:
        """How many draws the epoch has of these rows."""
        return self.whole * self.rows + len(self.share(epoch))


def bucket_parts(rows: RowsByBucket, shares: Sequence[Share]) -> dict[int, list[BucketPart]]:
    """Bucket -> its parts that have rows; shares: as `DeterministicSampler` has them, never empty."""
    ends = list(accumulate((share.rows for share in shares), initial=0))
    assert ends[-1] == len(rows), f"{ends[-1]} rows of a mixture, {len(rows)} in buckets"
    found: dict[int, list[BucketPart]] = {}
    for bucket in rows.counts:
        places = [rows.before(bucket, end) for end in ends]
        found[bucket] = [
            BucketPart(
                bucket, number, places[number], places[number + 1] - places[number], Fraction(repr(share.weight))
            )
            for number, share in enumerate(shares)
            if places[number + 1] > places[number]
        ]
    return found
