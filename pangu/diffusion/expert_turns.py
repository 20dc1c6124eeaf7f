"""How experts take turns in one trajectory, each with timesteps and noise levels of its own: they meet at equal log-SNR. Pure.

A contract holds whole timesteps, so a boundary that was found in one schedule is written in another as the whole timestep that is
nearest to it. That is at most half an index away, and none is nearer: the tolerance between schedules. Within one schedule there
is nothing to round, and boundaries are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pangu.config import NoiseSchedule
from pangu.config.noise_schedule import BETA_FIELDS
from pangu.diffusion.interval import Side, TimeInterval, check_ends, check_meeting
from pangu.errors import UserError

TOLERANCE = 0.5
"""Of a boundary between two schedules, in indices of either."""


@dataclass(frozen=True)
class Expert:
    """What an expert is called, the timesteps of its own that it owns, and the noise levels that these are."""

    name: str
    interval: TimeInterval[int]
    schedule: NoiseSchedule

    @property
    def side(self) -> Side:
        return self.name, self.interval


def same_levels(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Whether a timestep of one is the same timestep of the other, whatever the two predict and however they are visited."""
    return _levels_of(one) == _levels_of(other)


def _levels_of(schedule: NoiseSchedule) -> tuple[object, ...]:
    made_of = () if schedule.is_flow else tuple(getattr(schedule, name) for name in BETA_FIELDS)
    return schedule.is_flow, schedule.num_train_timesteps, *made_of


def check_experts(experts: Sequence[Expert]) -> None:
    """Experts, the noisiest first, cover a trajectory exactly once: from T of the first one's schedule to 0 of the last one's.

    Raises:
        UserError: a gap or an overlap, or a boundary at a level that one of its two sides never trains; names both.
    """
    for above, below in pairwise(experts):
        start: float = above.interval.low
        if not same_levels(above.schedule, below.schedule):
            start = _in_levels_of(below, above)
            end = _end_in_levels_of(above, below)
            near = abs(start - below.interval.high), abs(end - above.interval.low)
            if min(near) <= TOLERANCE:
                continue
        check_meeting(above.side, below.side, start)
    check_ends(experts[0].side, experts[-1].side, experts[0].schedule.num_train_timesteps)
    turns(experts)


def turns(experts: Sequence[Expert]) -> list[TimeInterval]:
    """What each expert owns of a trajectory in the timesteps of the first one: they meet where the upper of two begins.

    Raises:
        UserError: a boundary lies at a level that the first one's schedule does not have.
    """
    first = experts[0]
    lows = [
        each.interval.low if same_levels(first.schedule, each.schedule) else _in_levels_of(first, each)
        for each in experts[:-1]
    ]
    highs = [first.interval.high, *lows]
    return [
        TimeInterval(low, high, place == 0 and first.interval.closed)
        for place, (low, high) in enumerate(zip([*lows, 0], highs, strict=True))
    ]


def _in_levels_of(other: Expert, above: Expert) -> float:
    """Where an expert begins, in the timesteps of another one.

    Raises:
        UserError: the other one has no level like that.
    """
    from pangu.diffusion.training_levels import equal_level, level_at

    log_snr, last = level_at(above.schedule, above.interval.low).log_snr, other.schedule.num_train_timesteps
    ends = level_at(other.schedule, last if other.schedule.is_flow else last - 1), level_at(other.schedule, 0)
    if not ends[0].log_snr <= log_snr <= ends[1].log_snr:
        raise UserError(
            f"The boundary at t = {above.interval.low} of {above.name} has a log-SNR of {_short(log_snr)}, which is out of the "
            f"range of {other.name}: its noise levels are those from {_short(ends[0].log_snr)} to {_short(ends[1].log_snr)}."
        )
    return equal_level(above.interval.low, above.schedule, other.schedule)


def _end_in_levels_of(above: Expert, below: Expert) -> float:
    """Where the lower of two experts ends, in the timesteps of the upper."""
    from pangu.diffusion.training_levels import equal_level

    last = below.schedule.num_train_timesteps - (0 if below.schedule.is_flow else 1)
    return equal_level(min(below.interval.high, last), below.schedule, above.schedule)


def _short(log_snr: float) -> str:
    return f"{log_snr:.2f}" if math.isfinite(log_snr) else "-infinity" if log_snr < 0 else "infinity"
