"""Steps of each expert, chosen one by one: which whole trajectories have them, and a split by noise levels."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pangu.config import Role
from pangu.contract import expert_roles
from pangu.errors import UserError
from pangu.models.schedulers import fresh_scheduler
from pangu.sampling.entering import start_from_clean
from pangu.sampling.levels import trained_levels
from pangu.sampling.trajectory import Step, Trajectory

MOST_WHOLE = 1000
"""Steps of the longest trajectory that is looked at."""
MOST_LOG_SNR = 10.0
"""Beyond this a picture no longer changes: schedules of zero terminal SNR end at minus infinity."""


def split_by_log_snr(scheduler: Any, steps: int, boundary: float, *further: float) -> dict[Role, int]:
    """`steps` shared in proportion to the log-SNR that each expert crosses, at least one each. boundary: T_struct.

    further: boundaries below it, falling, between which more experts take turns.

    Raises:
        UserError: fewer steps than experts.
    """
    roles = expert_roles(len(further) + 2)
    if steps < len(roles):
        who = "two halves" if not further else f"{len(roles)} experts"
        raise UserError(f"{told_steps(steps)} can not be split over {who}; the least is {len(roles)}.")
    levels, total = trained_levels(scheduler), scheduler.config.num_train_timesteps
    noise, image = (_log_snr(levels, t) for t in (total - 1, 0))
    ends = [0]
    for behind, end in zip(range(len(further), -1, -1), (boundary, *further), strict=True):
        share = (_log_snr(levels, end) - noise) / (image - noise)
        ends.append(min(max(round(steps * share), ends[-1] + 1), steps - 1 - behind))
    return {role: low - high for role, (high, low) in zip(roles, pairwise([*ends, steps]), strict=True)}


def told_steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def wholes_of(
    scheduler: Any,
    wanted: Mapping[Role, int],
    boundaries: Sequence[float],
    entered_below: float = math.inf,
    **arguments: Any,
) -> tuple[int, ...]:
    """Steps of the whole trajectories that the experts walk along, so that each takes as many as are `wanted` of it.

    One for each expert, the noisiest first: that of the one before where nothing changes at the boundary between them, and 0
    where an expert takes a single step of another's whole: it ends the picture there, or below its interval on the next one's.
    boundaries: where one expert ends and the next begins, falling. entered_below: the timestep below which the trajectory is
    entered, as an edit does; experts above that take no part. Of a second-order sampler the steps are counted, not the calls.
    arguments: what else its `set_timesteps` takes.

    Raises:
        UserError: no number of steps up to `MOST_WHOLE` gives an expert as many as it wants; the sentence names the least of
            those whose last step has to end below their interval.
    """
    roles, lows = expert_roles(len(boundaries) + 1), (*boundaries, 0.0)
    first = next(place for place, low in enumerate(lows) if low < entered_below)
    walk = _Walk(scheduler, arguments, entered_below)
    wholes = []
    for place in range(first, len(roles)):
        is_last = place == len(roles) - 1
        wholes.append(walk.on(roles[place], wanted[roles[place]], lows[place], is_last))
    return (wholes[0],) * first + tuple(wholes)


@dataclass
class _Walk:
    """One expert after the other, along wholes that have the steps they want. below: where what is left begins.

    whole: that the trajectory is on; None at the beginning, and where it is entered again behind an expert of a single step.
    """

    scheduler: Any
    arguments: Mapping[str, Any]
    below: float
    whole: int | None = None

    def on(self, role: Role, wanted: int, low: float, is_last: bool) -> int:
        """The whole of the next expert, which owns `low` and what is left above it."""
        taken = 0
        if self.whole is not None:
            left = self._left(self.whole)
            if left[0] < low:
                raise UserError(f"no step would begin in the interval of {role}; give the expert before it more.")
            if sum(low <= t for t in left) == wanted and (is_last or left[-1] < low):
                self.below = low
                return self.whole
            if wanted == 1:
                self.whole, self.below = None, low
                return 0
            # The step at the boundary is this expert's: it leaves from where the one before arrived.
            taken, self.below = 1, left[0]
        self.whole = _whole(self.scheduler, role, wanted - taken, low, self.below, self.arguments)
        if not is_last:
            self._check_end(role, wanted, taken, low)
            self.below = low
        return self.whole

    def _left(self, whole: int) -> list[float]:
        return [t for t in _begun(_SchedulerKind.of(self.scheduler, self.arguments), whole) if t < self.below]

    def _check_end(self, role: Role, wanted: int, taken: int, low: float) -> None:
        """Raises UserError where the last step of this expert would end above the next one's interval."""
        assert self.whole is not None
        if min(self._left(self.whole), default=low) < low:
            return
        wholes = map(self._left, range(self.whole, MOST_WHOLE + 1))
        least = next(own for own in wholes if own and own[-1] < low)
        enough = taken + sum(low <= t for t in least)
        raise UserError(f"{wanted} would end above the boundary; the least of {role} is {enough}.")


def retimed(step: Step, steps: int, below: float | None = None, **arguments: Any) -> Trajectory:
    """The trajectory behind a step of an expert, continued on the timesteps of a whole of `steps`; 0 ends it here.

    below: goes on there and not right below the step's own timestep. arguments: what else `set_timesteps` of its scheduler takes.
    """
    trajectory = step.trajectory
    if steps == 0:
        return replace(trajectory, latents_bchw=step.clean_bchw, step=len(trajectory.timesteps))
    scheduler = fresh_scheduler(trajectory.scheduler, steps, **arguments)
    fresh = replace(trajectory, scheduler=scheduler, timesteps=scheduler.timesteps, step=0)
    return start_from_clean(fresh, step.timestep if below is None else below, step.clean_bchw, step.noise_bchw)


def _log_snr(levels: Any, timestep: float) -> float:
    return min(max(levels.level(timestep).log_snr, -MOST_LOG_SNR), MOST_LOG_SNR)


def _whole(scheduler: Any, role: Role, wanted: int, low: float, high: float, arguments: Mapping[str, Any]) -> int:
    """The greatest whole with `wanted` steps in low <= t < high, so that they reach down to `low`.

    More steps of a whole never give a half fewer.
    """

    def taken(whole: int) -> int:
        return sum(low <= t < high for t in _begun(_SchedulerKind.of(scheduler, arguments), whole))

    found = bisect_right(range(1, MOST_WHOLE + 1), wanted, key=taken)
    if found == 0 or taken(found) != wanted:
        raise UserError(
            f"{type(scheduler).__name__} gives the {role} half no {wanted} steps, whatever their number in all."
        )
    return found


@dataclass(frozen=True)
class _SchedulerKind:
    """A scheduler by its settings, so that its timesteps are set once for all requests."""

    settings: str
    scheduler: Any = field(compare=False)
    arguments: Mapping[str, Any] = field(compare=False)

    @classmethod
    def of(cls, scheduler: Any, arguments: Mapping[str, Any]) -> "_SchedulerKind":
        return cls(
            repr((type(scheduler), scheduler.config, getattr(scheduler, "shift", None), arguments)),
            scheduler,
            arguments,
        )


@lru_cache(maxsize=4096)
def _begun(kind: _SchedulerKind, whole: int) -> tuple[float, ...]:
    """The timestep at which each step begins; none where the scheduler does not take so many."""
    try:
        timesteps = fresh_scheduler(kind.scheduler, whole, **kind.arguments).timesteps.tolist()
    except UserError:
        return ()
    return tuple(timesteps[:: getattr(kind.scheduler, "order", 1)])
