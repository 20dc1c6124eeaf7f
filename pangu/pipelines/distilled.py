"""The schedule and the guidance of generators of which some were distilled: those walk the timesteps that they were made for."""

from collections.abc import Mapping
from typing import Any

import torch

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.sampling.levels import is_flow

ITS_STEP = ("DDIMScheduler", "DDIMParallelScheduler", "FlowMatchEulerDiscreteScheduler")
"""One prediction leads straight to the next timestep, as distillation had it."""


def distilled(contracts: Mapping[Role, GeneratorContract]) -> dict[Role, GeneratorContract]:
    """Those of students."""
    return {role: contract for role, contract in contracts.items() if contract.distilled is not None}


def built_in(contracts: Mapping[Role, GeneratorContract]) -> dict[str, float]:
    """Scales of guidance of students: 1, because they have their teacher's built in."""
    return {str(role): 1.0 for role in distilled(contracts)}


def set_own_timesteps(
    scheduler: Any, contracts: Mapping[Role, GeneratorContract], owned: Mapping[Role, TimeInterval]
) -> None:
    """Change the timesteps that are set: a student takes its own, every other generator those that lie in its interval.

    So a request for any number of steps is served by the nearest schedule that there is.

    Raises:
        UserError: the scheduler's steps are not those that a student was made for, or a generator would have none.
    """
    students, name = distilled(contracts), type(scheduler).__name__
    if not students:
        return
    if name not in ITS_STEP:
        raise UserError(
            f"The {' and the '.join(students)} generator was distilled for the steps of "
            f"{ITS_STEP[2] if is_flow(scheduler) else ITS_STEP[0]}, which {name} does not take."
        )
    taken: list[float] = []
    first = next(iter(contracts.values()))
    for role, interval in owned.items():
        if role in students and contracts[role].schedule != first.schedule:
            raise UserError(
                f"The {role} generator was distilled in a noise schedule of its own; it must be that of {first.role}."
            )
        steps = students[role].distilled if role in students else None
        own = steps.timesteps if steps is not None else [t for t in scheduler.timesteps.tolist() if t in interval]
        if not own:
            raise UserError(
                f"num_inference_steps = {scheduler.num_inference_steps} leaves no step to the {role} generator, which was not "
                f"distilled; ask for more."
            )
        taken += own
    if is_flow(scheduler):
        scheduler.register_to_config(shift=1.0, use_dynamic_shifting=False)  # these are the levels after any shift
        scheduler.set_shift(1.0)
        scheduler.set_timesteps(sigmas=[t / scheduler.config.num_train_timesteps for t in taken])
    else:
        scheduler.set_timesteps(timesteps=[int(t) for t in taken])
    scheduler.timesteps = torch.as_tensor(taken, dtype=scheduler.timesteps.dtype)
