"""Which timestep a row is drawn at, so that all draws together have the recipe's density whatever single rows may not train.

Upscaled rows train no timestep below their `min_timestep`. If every row drew from the density above its own limit, levels above
limits would be drawn too often. So rows that may train everything make up for it: the rows with the highest limit take their
share of the draws above it, those with the next one theirs of what is left, and so on. Where more rows are limited than there are
draws above the limit, what remains is in the weights of the samples, up to `MOST_WEIGHT`.
"""

import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from pangu.config import NoiseSchedule, Optimization
from pangu.data.rows.mixed_rows import shares_of
from pangu.data.rows.training_rows import Rows, Share
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.timestep_density import TimestepDensity
from pangu.errors import UserError
from pangu.train.rows_by_bucket import RowsByBucket

Floats = npt.NDArray[np.float64]

MOST_WEIGHT = 10.0
"""Of a sample at levels that too few rows may train: more would make single samples decide a step."""
_ROWS_AT_ONCE = 1 << 20


def filled(width_s: Floats, rows_g: Floats) -> Floats:
    """(G, S = G): the share of all draws that the rows of group g make in segment s.

    width_s: the share of draws that each segment is to have; rows_g: the share of rows whose limit is the lower end of segment g.
    Both sum to 1. A group draws in its own and higher segments, as evenly as what higher groups leave.
    """
    left, taken = width_s.copy(), np.zeros((len(rows_g), len(width_s)))
    for group in range(len(rows_g) - 1, -1, -1):
        free, rows = left[group:], rows_g[group]
        room = float(free.sum())
        if room >= rows:
            taken[group, group:] = free * (rows / room)
        else:
            taken[group, group:] = free + (rows - room) * width_s[group:] / width_s[group:].sum()
        left[group:] = np.maximum(free - taken[group, group:], 0.0)
    return taken


@dataclass(frozen=True, eq=False)
class BucketTimesteps:
    """The draws of the rows of one bucket.

    limits: the distinct lowest timesteps of its rows, raised to the interval's; rows_g: the share of rows with each.
    """

    interval: TimeInterval
    density: TimestepDensity
    continuous: bool
    limits: tuple[int, ...]
    rows_g: Floats

    @cached_property
    def _ends(self) -> Floats:
        """Shares of the density below each limit and below the end of the interval, (G + 1,)."""
        return np.array([self.density.share_below(t) for t in (*self.limits, self.interval.high)])

    @cached_property
    def _widths(self) -> Floats:
        """The share of draws that each segment is to have, above 0 however thin the density is there."""
        widths = np.maximum(np.diff(self._ends), 1e-12)
        return widths / widths.sum()

    @cached_property
    def _taken(self) -> Floats:
        return filled(self._widths, self.rows_g)

    @cached_property
    def _cumulative(self) -> list[list[float]]:
        sums = self._taken.cumsum(1)
        return (sums / sums[:, -1:]).tolist()

    @cached_property
    def weights_s(self) -> Floats:
        """Of a sample in each segment: how often it should be drawn over how often it is, 1 wherever rows can fill it."""
        weights = np.minimum(self._widths / self._taken.sum(0), MOST_WEIGHT)
        return np.where(np.isclose(weights, 1, atol=1e-6), 1.0, weights)

    def draw(self, min_timestep: int, generator: torch.Generator) -> tuple[float, float]:
        """Timestep and weight of one sample of a row with that limit."""
        low, high = max(self.interval.low, min_timestep), self.interval.high
        if len(self.limits) == 1 and not self.continuous and self.density.sampling == "uniform":
            return int(torch.randint(low, high, (), generator=generator)), 1.0
        # Its own float64 numbers: a float32 of them has too few for the ends of a shifted density.
        part = float(torch.rand((), generator=generator, dtype=torch.float64))
        cumulative = self._cumulative[bisect.bisect_left(self.limits, low)]
        segment = min(bisect.bisect_right(cumulative, part), len(cumulative) - 1)
        before = cumulative[segment - 1] if segment else 0.0
        inside = (part - before) / (cumulative[segment] - before)
        first, last = self._ends[segment : segment + 2]
        timestep = self.density.timestep(float(first + inside * (last - first)))
        within = min(max(timestep, low), float(np.nextafter(np.float32(high), np.float32(0))))
        return (within if self.continuous else int(within)), float(self.weights_s[segment])


@dataclass(frozen=True, eq=False)
class TimestepSampler:
    """The draws of all rows of a training, by bucket."""

    buckets: Mapping[int, BucketTimesteps]
    continuous: bool
    weighs: bool

    def draw(self, bucket: int, min_timestep: int, generator: torch.Generator) -> tuple[float, float]:
        """As `BucketTimesteps.draw`."""
        return self.buckets[bucket].draw(min_timestep, generator)


def timestep_sampler(
    rows: Rows,
    interval: TimeInterval,
    schedule: NoiseSchedule,
    optimization: Optimization,
    windows: Mapping[int, tuple[int, int]] | None = None,
) -> TimestepSampler:
    """The timesteps of a training on `interval`; windows: preset -> size in latents of what is trained on, where it is a part.

    Raises:
        UserError: hardly any draw of the density lies in the interval.
    """
    buckets, first = {}, RowsByBucket(rows.preset_n.numpy()).first()
    for preset, weights in limit_weights(rows, interval.low).items():
        size = _size(rows, preset, first[preset], windows) if schedule.use_dynamic_shifting else (0, 0)
        density = optimization.density(schedule.num_train_timesteps, schedule.shift_at(*size))
        if trouble := density.trouble(interval.low, interval.high):
            raise UserError(f"Nothing can be trained on {interval}: {trouble}.")
        counts = np.array([weights[limit] for limit in sorted(weights)])
        rows_g = counts / counts.sum()
        buckets[preset] = BucketTimesteps(interval, density, schedule.is_flow, tuple(sorted(weights)), rows_g)
    weighs = any(len(one.limits) > 1 and bool((one.weights_s != 1).any()) for one in buckets.values())
    return TimestepSampler(buckets, schedule.is_flow, weighs)


def limit_weights(rows: Rows, low: int) -> dict[int, dict[int, float]]:
    """Preset -> lowest timestep, raised to `low` -> how many of its rows have it, each as often as it appears in an epoch."""
    found: dict[int, dict[int, float]] = {}
    presets, limits, end = rows.preset_n.numpy(), rows.min_timestep_n.numpy(), 0
    for share in shares_of(rows) or (Share(len(presets), 1),):
        first, end = end, end + share.rows
        counts = Counter[int]()
        for start in range(first, end, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, end))
            found_here, times = np.unique((presets[part] << 32) + np.maximum(limits[part], low), return_counts=True)
            counts.update(dict(zip(found_here.tolist(), times.tolist(), strict=True)))
        for both, count in counts.items():
            own = found.setdefault(both >> 32, {})
            own[both & 0xFFFFFFFF] = own.get(both & 0xFFFFFFFF, 0) + count * share.weight
    return dict(sorted(found.items()))


def _size(rows: Rows, preset: int, first: int, windows: Mapping[int, tuple[int, int]] | None) -> tuple[int, int]:
    """(height, width) in latents of what is trained on of a row of the preset, the first of which is `first`."""
    if windows and preset in windows:
        return windows[preset]
    height, width = rows.latents([first]).shape[2:]
    return height, width
