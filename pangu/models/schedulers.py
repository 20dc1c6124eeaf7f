"""diffusers schedulers made from the recipe's noise schedule."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from pangu.config import NoiseSchedule
from pangu.errors import UserError

SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""The samplers that can be asked for by name; all of them cross the boundary between two generators."""


def named_sampler(name: str, trained: Any) -> Any:
    """The sampler `name` over the noise levels of the scheduler `trained`.

    Raises:
        UserError: no sampler has that name.
    """
    if name not in SAMPLERS:
        raise UserError(f"There is no scheduler '{name}'; use {', '.join(SAMPLERS)}.")
    return SAMPLERS[name].from_config(trained.config)


def sampler(schedule: NoiseSchedule) -> DDIMScheduler:
    """The default sampler of a pair: DDIM (arXiv 2010.02502) over exactly the noise levels it was trained with."""
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
    """A scheduler may sample a pair only over the noise levels that the pair was trained with.

    Raises:
        UserError: one of the values differs; the sentence names it and both sides.
    """
    for name, value in trained.model_dump().items():
        # Classes that lack `rescale_betas_zero_snr` never rescale.
        theirs = scheduler.config.get(name, False if name == "rescale_betas_zero_snr" else None)
        if theirs != value:
            raise UserError(
                f"{type(scheduler).__name__} has {name} = {theirs}, but the generators were trained with {value}; "
                f"build it with from_config(pipeline.scheduler.config)."
            )
