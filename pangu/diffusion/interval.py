"""The timestep interval that a generator owns, and how two intervals make a pair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pangu.config import MIDDLE_ROLES, ROLES, Role
from pangu.errors import UserError

Bound = TypeVar("Bound", int, float)


@dataclass(frozen=True)
class TimeInterval(Generic[Bound]):
    """Timesteps low <= t < high, with 0 <= low < high <= T: indices, or in another's timesteps numbers between two of them.

    The paper counts t = 1 ... T; indices count 0 ... T - 1. Its structure range (T_struct, T] is [T_struct, T) here,
    and its texture range (0, T_struct] is [0, T_struct) (PanGu-Draw, Section 3.2).

    closed: t = high belongs to it, too, as to that of a flow's noisiest expert: timesteps are continuous, and pure noise is T.
    """

    low: Bound
    high: Bound
    closed: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UserError(f"A time interval needs 0 <= low < high, not [{self.low}, {self.high}).")

    def __contains__(self, t: float) -> bool:
        return self.low <= t < self.high or (self.closed and t == self.high)

    def __str__(self) -> str:
        return f"[{told(self.low)}, {told(self.high)}{']' if self.closed else ')'}"

    def check(self, t: float, who: str, tolerance: float = 0.0) -> None:
        """Refuse a timestep outside the interval; one that was found in another schedule may be rounded by `tolerance`.

        Raises:
            UserError: `who`, trained on this interval, was asked for another timestep.
        """
        if t not in self and not (tolerance and self.low - tolerance <= t <= self.high + tolerance):
            raise UserError(f"The {who} generator is trained for t in {self}, but was asked for t = {t}.")


def interval_of(role: Role, boundary: int, num_train_timesteps: int, further: Sequence[int] = ()) -> TimeInterval:
    """The interval of `role` when T_struct is `boundary`; a baseline's generator owns all of it (PanGu-Draw, Section 3.2).

    further: boundaries below it, falling, between which more experts take turns.
    """
    roles = (ROLES[0], *MIDDLE_ROLES[: len(further)], ROLES[1])
    if role not in roles:
        return TimeInterval(0, num_train_timesteps)
    ends, place = (num_train_timesteps, boundary, *further, 0), roles.index(role)
    return TimeInterval(ends[place + 1], ends[place])


def check_partition(structure: TimeInterval, texture: TimeInterval, num_train_timesteps: int) -> None:
    """Two intervals make a pair if together they cover [0, T) exactly once.

    Raises:
        UserError: there is a gap or an overlap; the sentence names both sides.
    """
    sides = ("structure", structure), ("texture", texture)
    check_meeting(*sides, structure.low)
    check_ends(*sides, num_train_timesteps)


Side = tuple[str, TimeInterval]
"""What an expert is called, and what it owns."""


def check_meeting(above: Side, below: Side, start: float) -> None:
    """The interval above begins where the one below it ends. start: where that is, in the timesteps of `below`.

    Raises:
        UserError: there is a gap or an overlap between them.
    """
    end, both = below[1].high, _both(above, below)
    if end < start:
        raise UserError(f"Gap in the pair: {both}; nobody covers [{told(end)}, {told(start)}).")
    if end > start:
        raise UserError(f"Overlap in the pair: {both}; both cover [{told(start)}, {told(end)}).")


def check_ends(above: Side, below: Side, num_train_timesteps: int) -> None:
    """The noisiest interval ends at T, the T of its own network, and the last one begins at 0.

    Raises:
        UserError: some of the trajectory is nobody's.
    """
    if below[1].low != 0 or above[1].high != num_train_timesteps:
        raise UserError(
            f"Gap in the pair: {_both(above, below)}, but sampling needs all of [0, {num_train_timesteps})."
        )


def _both(above: Side, below: Side) -> str:
    return f"{above[0]} covers {above[1]} and {below[0]} covers {below[1]}"


def told(timestep: float) -> str:
    """A timestep as sentences write it."""
    return str(timestep) if isinstance(timestep, int) else f"{round(timestep, 1):g}"


def steps_per_role(timesteps: Iterable[float], lows: Mapping[Role, float]) -> dict[Role, int]:
    """How many steps of a trajectory each expert takes, by the timesteps that a scheduler has set.

    The CURRENT timestep says whose step it is (PanGu-Draw, Section 3.2). A second-order scheduler asks the network twice a
    step, at timesteps of their own; each counts. lows: expert -> where its interval begins, the noisiest first.
    """
    owners = [next(role for role, low in lows.items() if float(t) >= low) for t in timesteps]
    return {role: owners.count(role) for role in lows}
