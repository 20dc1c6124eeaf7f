"""How a call begins: the steps of a scheduler or a schedule of the caller's own (diffusers' `retrieve_timesteps`)."""

import inspect
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from pangu.config import Role
from pangu.contract import GeneratorContract, owned
from pangu.errors import UserError
from pangu.models.schedulers import set_steps


def set_timesteps(
    scheduler: Any,
    steps: int,
    device: torch.device | str,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Set a fresh scheduler to `steps` steps, or to the given timesteps or noise levels; one of them at most.

    arguments: what else `set_timesteps` of this scheduler takes; its own `sigmas` give way to the caller's schedule.

    Raises:
        UserError: both are given, or the scheduler takes no such schedule.
    """
    if timesteps is not None and sigmas is not None:
        raise UserError("timesteps and sigmas are two ways to say one schedule; give one of the two.")
    if timesteps is None and sigmas is None:
        set_steps(scheduler, steps, device, **(arguments or {}))
        return
    name, values = ("timesteps", timesteps) if timesteps is not None else ("sigmas", sigmas)
    kind = type(scheduler).__name__
    if name not in inspect.signature(scheduler.set_timesteps).parameters:
        raise UserError(f"{kind} takes no {name} of your own; EulerDiscreteScheduler takes both kinds of schedules.")
    given = [float(value) for value in values or ()]
    if not given or not all(map(math.isfinite, given)):
        raise UserError(f"{name} must be a list of at least one finite number.")
    try:
        others = {key: value for key, value in (arguments or {}).items() if key != "sigmas"}
        scheduler.set_timesteps(**others, **{name: given}, device=device)
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{kind} does not take these {name}: {str(error).splitlines()[0]}") from error


def check_falling(timesteps: torch.Tensor) -> None:
    """Raises UserError if a schedule goes back towards noise."""
    if any(later > earlier for earlier, later in pairwise(timesteps.tolist())):
        raise UserError("The schedule must fall from noise to the picture: no timestep may be above the one before it.")


def check_own_schedule(timesteps: torch.Tensor, contracts: Mapping[Role, GeneratorContract]) -> None:
    """Raises UserError unless a schedule of the caller's own falls, inside [0, T), with a step for each generator."""
    found = [float(t) for t in timesteps]
    intervals = owned(contracts)
    outside = [t for t in found if not any(t in interval for interval in intervals.values())]
    if outside:
        last = max(intervals.values(), key=lambda interval: interval.high)
        raise UserError(
            f"The schedule has a step at t = {outside[0]:g}, but the generators know t in [0, {str(last).split(', ')[1]}."
        )
    check_falling(timesteps)
    for role, interval in intervals.items():
        if not any(t in interval for t in found):
            raise UserError(
                f"The schedule has no step in {interval}, which the {role} generator owns; "
                "give at least one to each generator."
            )
