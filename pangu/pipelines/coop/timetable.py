"""Who is asked at which call, and what crosses the bridge: decided before the first network runs. Pure.

The loop follows the timetable, and `plan()` counts it, so both agree by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Part(Enum):
    """What a partner does at one call."""

    OFF = auto()
    ASK = auto()
    KEEP = auto()
    """Its last clean estimate stands in, so that only every k-th step pays for its network and the bridge."""


@dataclass(frozen=True)
class Turn:
    """One partner at one call.

    enters:  a bridged partner without a state of its own joins a trajectory under way: the main's clean estimate crosses to it.
    returns: the fusion crosses back to it, because it goes on from here (Algorithm 1, line 6).
    """

    part: Part = Part.OFF
    strength: float = 0.0
    enters: bool = False
    returns: bool = False


@dataclass(frozen=True)
class Call:
    """Everybody at one call of the sampler. main: whether the main's network is needed."""

    main: bool
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Seat:
    """What the timetable must know of a partner.

    strengths: at each step. masked: whether a mask leaves a part of each image to others. bridged: whether it has latents of
    its own. every: it is asked at each `every`-th of its steps.
    """

    strengths: tuple[float, ...]
    masked: bool
    bridged: bool
    every: int


def timetable(
    step_of_call: Sequence[int], seats: Sequence[Seat], first: int = 0, main_always: bool = False
) -> list[Call]:
    """One entry for each call from `first` on.

    step_of_call: the user's step that each call belongs to; second-order schedulers have two calls a step.
    first:        the call to begin at; a partner that is bridged and begins later must enter.
    main_always:  the main's network gives more than the prediction, such as a learned variance.
    """
    columns = [_column(step_of_call, seat, first) for seat in seats]
    calls = []
    for turns in zip(*columns, strict=True) if columns else [()] * (len(step_of_call) - first):
        taken = sum(turn.strength for turn, seat in zip(turns, seats, strict=True) if not seat.masked)
        needed = main_always or taken < 1.0 - 1e-9 or any(turn.enters for turn in turns)
        calls.append(Call(needed, tuple(turns)))
    return calls


def _column(step_of_call: Sequence[int], seat: Seat, first: int) -> list[Turn]:
    column: list[Turn] = []
    has_state, steps_in_range, last_step = first == 0, 0, -1
    for call in range(first, len(step_of_call)):
        step = step_of_call[call]
        strength = seat.strengths[step]
        if strength == 0:
            column.append(Turn())
            has_state, steps_in_range, last_step = False, 0, step
            continue
        if step != last_step:
            steps_in_range, last_step = steps_in_range + 1, step
        # Both stages of a second-order step are asked alike.
        part = Part.ASK if (steps_in_range - 1) % seat.every == 0 else Part.KEEP
        goes_on = call + 1 < len(step_of_call) and seat.strengths[step_of_call[call + 1]] > 0
        alone = strength >= 1 and not seat.masked
        column.append(
            Turn(
                part,
                strength,
                enters=seat.bridged and not has_state,
                returns=seat.bridged and part is Part.ASK and goes_on and not alone,
            )
        )
        has_state = True
    return column
