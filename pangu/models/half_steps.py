"""Steps of each half of a pair, chosen one by one: which whole trajectories have them, and a split by noise levels."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pangu.config import ROLES, Role
from pangu.errors import UserError
from pangu.models.schedulers import fresh_scheduler
from pangu.sampling.entering import start_from_clean
from pangu.sampling.levels import trained_levels
from pangu.sampling.trajectory import Step, Trajectory

MOST_WHOLE = 1000
"""Steps of the longest trajectory that is looked at."""
MOST_LOG_SNR = 10.0
"""Beyond this a picture no longer changes: schedules of zero terminal SNR end at minus infinity."""


def split_by_log_snr(scheduler: Any, steps: int, boundary: float) -> dict[Role, int]:
    """`steps` shared in proportion to the log-SNR that each half crosses, at least one each. boundary: T_struct.

    Raises:
        UserError: fewer than two steps.
    """
    if steps < len(ROLES):
        raise UserError(f"{steps} step can not be split over two halves; the least is {len(ROLES)}.")
    levels, total = trained_levels(scheduler), scheduler.config.num_train_timesteps
    noise, here, image = (_log_snr(levels, t) for t in (total - 1, boundary, 0))
    own = min(max(round(steps * (here - noise) / (image - noise)), 1), steps - 1)
    return {"structure": own, "texture": steps - own}


def wholes_of(
    scheduler: Any, wanted: Mapping[Role, int], boundary: float, entered_below: float = math.inf, **arguments: Any
) -> tuple[int, int]:
    """Steps of the whole trajectories that structure and texture walk along, so that each takes as many as are `wanted` of it.

    The second is 0 where texture draws the image with one step, and the first one again where nothing changes at the boundary.
    entered_below: the timestep below which the trajectory is entered, as an edit does; structure takes no part unless that is
    above the boundary. Of a second-order sampler the steps are counted, not the calls. arguments: what else its
    `set_timesteps` takes.

    Raises:
        UserError: no number of steps up to `MOST_WHOLE` gives a half as many as it wants; the sentence names the least of
            structure's, whose last one has to end below the boundary.
    """
    if entered_below <= boundary:
        whole = _whole(scheduler, "texture", wanted["texture"], 0, entered_below, arguments)
        return whole, whole
    above = _whole(scheduler, "structure", wanted["structure"], boundary, entered_below, arguments)
    below = [t for t in _begun(_SchedulerKind.of(scheduler, arguments), above) if t < boundary]
    if not below:
        wholes = (_begun(_SchedulerKind.of(scheduler, arguments), whole) for whole in range(above, MOST_WHOLE + 1))
        least = next(own for own in wholes if own and own[-1] < boundary)
        enough = sum(boundary <= t < entered_below for t in least)
        raise UserError(f"{wanted['structure']} would end above the boundary; the least of structure is {enough}.")
    if len(below) == wanted["texture"]:
        return above, above
    if wanted["texture"] == 1:
        return above, 0
    # The step at the boundary is one of texture's: it leaves from where structure arrived.
    return above, _whole(scheduler, "texture", wanted["texture"] - 1, 0, below[0], arguments)


def retimed(step: Step, steps: int, **arguments: Any) -> Trajectory:
    """The trajectory of a first step below the boundary, continued on the timesteps of a whole of `steps`; 0 ends it here.

    arguments: what else `set_timesteps` of its scheduler takes.
    """
    trajectory = step.trajectory
    if steps == 0:
        return replace(trajectory, latents_bchw=step.clean_bchw, step=len(trajectory.timesteps))
    scheduler = fresh_scheduler(trajectory.scheduler, steps, **arguments)
    fresh = replace(trajectory, scheduler=scheduler, timesteps=scheduler.timesteps, step=0)
    return start_from_clean(fresh, step.timestep, step.clean_bchw, step.noise_bchw)


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
