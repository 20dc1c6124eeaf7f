"""The timestep interval that a generator owns, and how two intervals make a pair."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pangu.config import ROLES, Role
from pangu.errors import UserError


@dataclass(frozen=True)
class TimeInterval:
    """Timestep indices low <= t < high, with 0 <= low < high <= T.

    The paper counts t = 1 ... T; indices count 0 ... T - 1. Its structure range (T_struct, T] is [T_struct, T) here,
    and its texture range (0, T_struct] is [0, T_struct) (PanGu-Draw, Section 3.2).

    closed: t = high belongs to it, too, as to that of a flow's noisiest expert: timesteps are continuous, and pure noise is T.
    """

    low: int
    high: int
    closed: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UserError(f"A time interval needs 0 <= low < high, not [{self.low}, {self.high}).")

    def __contains__(self, t: float) -> bool:
        return self.low <= t < self.high or (self.closed and t == self.high)

    def __str__(self) -> str:
        return f"[{self.low}, {self.high}{']' if self.closed else ')'}"

    def check(self, t: float, who: str) -> None:
        """Refuse a timestep outside the interval.

        Raises:
            UserError: `who`, trained on this interval, was asked for another timestep.
        """
        if t not in self:
            raise UserError(f"The {who} generator is trained for t in {self}, but was asked for t = {t}.")


def interval_of(role: Role, boundary: int, num_train_timesteps: int) -> TimeInterval:
    """The interval of `role` when T_struct is `boundary`; a baseline's generator owns all of it (PanGu-Draw, Section 3.2)."""
    if role == "structure":
        return TimeInterval(boundary, num_train_timesteps)
    return TimeInterval(0, boundary if role == "texture" else num_train_timesteps)


def check_partition(structure: TimeInterval, texture: TimeInterval, num_train_timesteps: int) -> None:
    """Two intervals make a pair if together they cover [0, T) exactly once.

    Raises:
        UserError: there is a gap or an overlap; the sentence names both sides.
    """
    both = f"structure covers {structure} and texture covers {texture}"
    if texture.high < structure.low:
        raise UserError(f"Gap in the pair: {both}; nobody covers [{texture.high}, {structure.low}).")
    if texture.high > structure.low:
        raise UserError(f"Overlap in the pair: {both}; both cover [{structure.low}, {texture.high}).")
    if texture.low != 0 or structure.high != num_train_timesteps:
        raise UserError(f"Gap in the pair: {both}, but sampling needs all of [0, {num_train_timesteps}).")


def expert_at(timestep: float, boundary: int) -> Role:
    """The half that owns the CURRENT timestep (PanGu-Draw, Section 3.2)."""
    return "structure" if timestep >= boundary else "texture"


def steps_per_role(timesteps: Iterable[float], boundary: int) -> dict[Role, int]:
    """How many steps of a trajectory each half takes, by the timesteps that a scheduler has set.

    A second-order scheduler asks the network twice a step, at timesteps of their own; each counts.
    """
    experts = [expert_at(float(t), boundary) for t in timesteps]
    return {role: experts.count(role) for role in ROLES}
