"""diffusers schedulers: made from the recipe's noise schedule, checked against it, and set up for one trajectory."""

import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from pangu.config import NoiseSchedule, Role
from pangu.diffusion.interval import steps_per_role, told
from pangu.diffusion.training_levels import alpha_bars
from pangu.errors import UserError
from pangu.models.ddim import EXACT
from pangu.sampling.levels import is_flow

SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""The samplers that can be asked for by name; all of them cross the boundary between two generators."""
FLOW_SAMPLERS: dict[str, Any] = {"euler": FlowMatchEulerDiscreteScheduler, "heun": FlowMatchHeunDiscreteScheduler}
"""The same for generators that predict flows."""

STRIDING = ("PNDMScheduler", "CogVideoXDDIMScheduler")
"""They go on by T // steps, as diffusers' DDIM does, but the way of their steps is not ours to choose."""


def named_sampler(name: str, trained: Any) -> Any:
    """The sampler `name` over the noise levels of the scheduler `trained`.

    Raises:
        UserError: no sampler has that name.
    """
    known = FLOW_SAMPLERS if is_flow(trained) else SAMPLERS
    if name not in known:
        raise UserError(f"There is no scheduler '{name}'; use {', '.join(known)}.")
    return known[name].from_config(trained.config)


def sampler(schedule: NoiseSchedule) -> Any:
    """The default sampler of a pair: DDIM (arXiv 2010.02502) over exactly the noise levels it was trained with, or Euler's steps
    along a flow (arXiv 2403.03206) under the shift of the training.

    Raises:
        UserError: nothing finite can be drawn over them.
    """
    check_usable(schedule)
    if schedule.is_flow:
        taken = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
        own = {name: getattr(schedule, name) for name in NoiseSchedule.model_fields if name in taken}
        return FlowMatchEulerDiscreteScheduler(**own)
    return DDIMScheduler(
        **training_arguments(schedule),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def training_arguments(schedule: NoiseSchedule) -> dict[str, Any]:
    """What a scheduler must share with the training, whichever its class."""
    return schedule.model_dump()


def check_usable(schedule: NoiseSchedule) -> None:
    """Raises UserError if nothing finite can be drawn over noise levels that came with weights from elsewhere."""
    if trouble := schedule.trouble():
        raise UserError(f"The generators cannot be used: {trouble}.")


def check_schedule(scheduler: Any, trained: NoiseSchedule) -> None:
    """A scheduler may sample generators only over the noise levels that they were trained with.

    What its config says is not enough: `from_config` also keeps values that a class makes no use of.

    Raises:
        UserError: one of the values or the table of noise levels differs, or no scheduler can sample that schedule.
    """
    name = type(scheduler).__name__
    if is_flow(scheduler) != trained.is_flow:
        asked, given = ("flows", "noise or velocity")[:: 1 if trained.is_flow else -1]
        known = FLOW_SAMPLERS if trained.is_flow else SAMPLERS
        use = ", ".join(cls.__name__ for cls in known.values())
        raise UserError(
            f"The generators predict {asked}, but {name} samples models that predict {given}; use one of {use}."
        )
    if trained.is_flow:
        # The shift says which levels are visited, not what the network is told of them.
        if scheduler.config.num_train_timesteps != trained.num_train_timesteps:
            raise UserError(
                f"{name} has num_train_timesteps = {scheduler.config.num_train_timesteps}, but the generators were trained with "
                f"{trained.num_train_timesteps}; build it with from_config(pipeline.scheduler.config)."
            )
        return
    own = _usable_alpha_bars(trained)
    for field, value in trained.model_dump().items():
        # Classes that lack `rescale_betas_zero_snr` never rescale.
        theirs = scheduler.config.get(field, False if field == "rescale_betas_zero_snr" else None)
        if theirs != value:
            raise UserError(
                f"{name} has {field} = {theirs}, but the generators were trained with {value}; "
                f"build it with from_config(pipeline.scheduler.config)."
            )
    table = getattr(scheduler, "alphas_cumprod", None)
    # Some classes keep the last of zero terminal SNR a little above 0.
    if table is None or len(table) != len(own) or not torch.allclose(table.float().cpu(), own, rtol=0, atol=1e-5):
        raise UserError(
            f"{name} does not sample over the noise levels that the generators were trained with, whatever its config; "
            f"use {_known(name)}."
        )


@cache
def _usable_alpha_bars(schedule: NoiseSchedule) -> torch.Tensor:
    check_usable(schedule)
    return alpha_bars(schedule)


def _known(refused: str) -> str:
    return ", ".join(cls.__name__ for cls in SAMPLERS.values() if cls.__name__ != refused)


def noise_scale(scheduler: Any) -> float:
    """What unit noise is multiplied with to be the first sample; flows begin at the noise itself."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def fresh_scheduler(scheduler: Any, steps: int, device: torch.device | str | None = None, **arguments: Any) -> Any:
    """A scheduler of the same kind and settings for one trajectory of `steps` steps; the given one stays as it is.

    Each of its steps ends at the next of its own timesteps, and the last one of those in `SAMPLERS` in a sample without noise.

    Args:
        arguments: what else its `set_timesteps` takes.

    Raises:
        UserError: it can not walk from noise to an image in so many steps, whatever network it is given.
    """
    fresh = copied(scheduler)
    set_steps(fresh, steps, device, **arguments)
    return fresh


def copied(scheduler: Any) -> Any:
    """A scheduler of the same kind and settings, whose timesteps are to be set.

    Raises:
        UserError: its steps need more than a prediction, a timestep and a sample.
    """
    kind: Any = type(scheduler)
    if not _steps_alone(getattr(kind, "step", None)):
        raise UserError(
            f"{kind.__name__} has no step from a prediction, a timestep and a sample alone; use {_known(kind.__name__)}."
        )
    return EXACT.get(kind, kind).from_config(scheduler.config)


def set_steps(fresh: Any, steps: int, device: torch.device | str | None = None, **arguments: Any) -> None:
    """Set `steps` timesteps of the configured spacing, neither more nor fewer.

    Raises:
        UserError: the scheduler can not take so many.
    """
    name, total = type(fresh).__name__, fresh.config.get("num_train_timesteps")
    if fresh.config.get("use_dynamic_shifting") and "mu" not in arguments:
        arguments["mu"] = fresh.config.base_shift  # of the base size, where nobody says which
    if steps < 1:
        raise UserError(f"{name} needs at least 1 step, not {steps}.")
    # numpy.arange(T, 0, -T / n), diffusers' trailing spacing, has n + 1 elements where T / n was rounded down.
    whole = not total or math.ceil(total / (total / steps)) == steps
    try:
        fresh.set_timesteps(steps if whole else _RoundsUp(steps), device=device, **arguments)
    except ValueError as error:
        raise UserError(f"{name} can not take {steps} steps: {error}") from error
    if isinstance(getattr(fresh, "num_inference_steps", None), _RoundsUp):
        fresh.num_inference_steps = steps
    check_timesteps(fresh)
    if name in STRIDING and fresh.config.timestep_spacing != "leading" and total % steps:
        raise UserError(
            f"{name} steps by {total} // {steps} and misses its own timesteps; ask for a number of steps that divides {total}, "
            f"or give it timestep_spacing = leading."
        )


class _RoundsUp(int):
    """A number of steps n for which T / n is the next float above the quotient, so that n times it reaches T."""

    def __rtruediv__(self, total: float) -> float:
        return math.nextafter(total / int(self), math.inf)


@cache
def _steps_alone(step: Any) -> bool:
    """Whether a scheduler's step needs no more than a prediction, a timestep and a sample."""
    if step is None:
        return False
    taken = inspect.signature(step).parameters
    needed = [name for name, how in taken.items() if how.default is how.empty and how.kind is not how.VAR_KEYWORD]
    # unCLIP's goes to t - 1 unless it is told where to.
    return needed == ["self", "model_output", "timestep", "sample"] and "prev_timestep" not in taken


def check_timesteps(fresh: Any) -> None:
    """Timesteps that are set must lead from noise to an image, over noise levels that the networks know.

    Raises:
        UserError: they do not; the sentence names them.
    """
    name, own = type(fresh).__name__, fresh.timesteps.tolist()
    if own[-1] > own[0] or "Inverse" in name:
        raise UserError(f"{name} walks up to t = {max(own):g}, from images to noise; use {_known(name)}.")
    total = fresh.config.get("num_train_timesteps")
    # Models of sigmas and flows have timesteps of other kinds.
    if hasattr(fresh, "alphas_cumprod") and not all(0 <= t < total for t in own):
        raise UserError(
            f"{name} has timesteps {min(own):g} ... {max(own):g}, but the networks know 0 ... {total - 1}; use {_known(name)}."
        )


def least_steps(scheduler: Any, lows: Mapping[Role, float], strength: float = 1.0) -> int:
    """The least number of steps with which each expert that takes part has at least one.

    lows: expert -> where its interval begins, the noisiest first. strength: the trajectory is entered below `strength` times T,
    as image-to-image does; who begins above that takes no part, so an edit that begins at the boundary has boundary / T.

    Raises:
        UserError: no number of steps gives each of them one.
    """
    total = int(scheduler.config.num_train_timesteps)
    for steps in range(1, total + 1):
        try:
            own = fresh_scheduler(scheduler, steps).timesteps.tolist()
        except UserError:
            continue
        taken = steps_per_role([t for t in own if t < strength * total], lows)
        if all(taken[role] for role, low in lows.items() if low < strength * total):
            return steps
    boundaries = [told(low) for low in lows.values() if low > 0]
    where = f"a boundary of {boundaries[0]}" if len(boundaries) == 1 else f"boundaries of {', '.join(boundaries)}"
    raise UserError(
        f"{type(scheduler).__name__} leaves a half of the pair without a step, whatever their number, at strength = {strength:g} "
        f"and {where}{_shift_of(scheduler)}."
    )


def _shift_of(scheduler: Any) -> str:
    shift = getattr(scheduler, "shift", 1.0)
    return f", under a shift of {shift:g}" if shift != 1.0 else ""


def check_halves(scheduler: Any, lows: Mapping[Role, float]) -> None:
    """Each expert must have a step of a whole trajectory over the timesteps that are set. lows: as for `least_steps`.

    Raises:
        UserError: one has none; the sentence names the least number of steps that is enough.
    """
    taken = steps_per_role(scheduler.timesteps.tolist(), lows)
    for role, count in taken.items():
        if count == 0:
            raise UserError(
                f"num_inference_steps = {scheduler.num_inference_steps} leaves no step to the {role} generator; the least number "
                f"that gives each half one is {least_steps(scheduler, lows)}."
            )
