"""The paired bootstrap: how far the mean difference of two pairs on the same prompts can be trusted. Pure."""

from collections.abc import Mapping

import numpy as np

from pangu.config import Frozen
from pangu.errors import UserError

CHUNK = 4_000_000
"""Drawn indices held at once."""


class Difference(Frozen):
    """One pair minus another, e.g. candidate minus champion: the mean over prompts, and its percentile interval."""

    mean: float
    low: float
    high: float
    prompts: int


def paired(candidate: Mapping[str, float], champion: Mapping[str, float]) -> np.ndarray:
    """(N,) differences candidate - champion of the same prompts, in the order of their keys.

    Raises:
        UserError: the two were not asked the same prompts.
    """
    if candidate.keys() != champion.keys() or not candidate:
        both = len(candidate.keys() & champion.keys())
        raise UserError(
            f"Only {both} prompts of {len(candidate)} and {len(champion)} are the same; measure both pairs by one protocol."
        )
    keys = sorted(candidate)
    return np.array([candidate[key] - champion[key] for key in keys])


def bootstrap(difference_n: np.ndarray, confidence: float, resamples: int, seed: int = 0) -> Difference:
    """The percentile interval of the mean (Efron and Tibshirani 1993, Section 13.3); the same bits for the same seed.

    Args:
        difference_n: (N,) paired differences; a prompt is drawn with both of its values, so that what makes a prompt hard for
            every pair cancels out.
        confidence: share of the resampled means inside the interval, in (0, 1).
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    count = len(difference_n)
    rows = max(1, CHUNK // count)
    means = np.concatenate(
        [
            difference_n[generator.integers(0, count, (min(rows, resamples - start), count))].mean(1)
            for start in range(0, resamples, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(mean=float(difference_n.mean()), low=float(low), high=float(high), prompts=count)
