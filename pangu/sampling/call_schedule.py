"""Who is asked at which call, and what crosses the bridge: decided before the first network runs. Pure.

The loop follows the schedule of calls, and `plan()` counts it, so both agree by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Action(Enum):
    """What a partner does at one call."""

    OFF = auto()
    ASK = auto()
    KEEP = auto()
    """Its last clean estimate stands in, so that only every k-th step pays for its network and the bridge."""


@dataclass(frozen=True)
class PartnerCall:
    """One partner at one call.

    enters:  a bridged partner without a state of its own joins a trajectory under way: the main's clean estimate crosses to it.
    returns: the fusion crosses back to it, because it goes on from here (Algorithm 1, line 6).
    """

    action: Action = Action.OFF
    strength: float = 0.0
    enters: bool = False
    returns: bool = False


@dataclass(frozen=True)
class Call:
    """Everybody at one call of the sampler. main: whether the main's network is needed."""

    main: bool
    partner_calls: tuple[PartnerCall, ...]


@dataclass(frozen=True)
class PartnerSchedule:
    """What the schedule of calls must know of a partner.

    strengths: at each step. masked: whether a mask leaves a part of each image to others. bridged: whether it has latents of
    its own. every: it is asked at each `every`-th of its steps.
    """

    strengths: tuple[float, ...]
    masked: bool
    bridged: bool
    every: int


def call_schedule(
    step_of_call: Sequence[int], partner_schedules: Sequence[PartnerSchedule], first: int = 0, main_always: bool = False
) -> list[Call]:
    """One entry for each call from `first` on.

    step_of_call: the user's step that each call belongs to; second-order schedulers have two calls a step.
    first:        the call to begin at; a partner that is bridged and begins later must enter.
    main_always:  the main's network gives more than the prediction, such as a learned variance.
    """
    columns = [_column(step_of_call, schedule, first) for schedule in partner_schedules]
    calls = []
    for partner_calls in zip(*columns, strict=True) if columns else [()] * (len(step_of_call) - first):
        taken = sum(
            own_call.strength
            for own_call, schedule in zip(partner_calls, partner_schedules, strict=True)
            if not schedule.masked
        )
        needed = main_always or taken < 1.0 - 1e-9 or any(own_call.enters for own_call in partner_calls)
        calls.append(Call(needed, tuple(partner_calls)))
    return calls


def _column(step_of_call: Sequence[int], schedule: PartnerSchedule, first: int) -> list[PartnerCall]:
    column: list[PartnerCall] = []
    has_state, steps_in_range, last_step = first == 0, 0, -1
    for call in range(first, len(step_of_call)):
        step = step_of_call[call]
        strength = schedule.strengths[step]
        if strength == 0:
            column.append(PartnerCall())
            has_state, steps_in_range, last_step = False, 0, step
            continue
        if step != last_step:
            steps_in_range, last_step = steps_in_range + 1, step
        # Both stages of a second-order step are asked alike.
        action = Action.ASK if (steps_in_range - 1) % schedule.every == 0 else Action.KEEP
        goes_on = call + 1 < len(step_of_call) and schedule.strengths[step_of_call[call + 1]] > 0
        alone = strength >= 1 and not schedule.masked
        column.append(
            PartnerCall(
                action,
                strength,
                enters=schedule.bridged and not has_state,
                returns=schedule.bridged and action is Action.ASK and goes_on and not alone,
            )
        )
        has_state = True
    return column
