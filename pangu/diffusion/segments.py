"""The segments of an interval that a distilled generator steps over (phased consistency, arXiv 2405.18407, Section 3). Pure."""

from pangu.diffusion.interval import TimeInterval

CLEAN = -1
"""The end of the last segment: no timestep, but a sample without noise."""


def segment_starts(interval: TimeInterval[int], steps: int) -> tuple[int, ...]:
    """The timesteps at which `steps` equal segments begin, falling: trailing spacing within the interval.

    Raises:
        ValueError: the interval has fewer timesteps.
    """
    length = interval.high - interval.low
    if steps > length:
        raise ValueError(f"the interval {interval} has {length} timesteps, too few for {steps} segments")
    first = interval.high if interval.closed else interval.high - 1
    return tuple(first - round(place * length / steps) for place in range(steps))


def segment_ends(interval: TimeInterval[int], steps: int) -> tuple[int, ...]:
    """Where each segment ends: at the start of the next, the last one where the next expert begins, or at `CLEAN`."""
    return (*segment_starts(interval, steps)[1:], interval.low - 1)
