"""diffusers schedulers made from the recipe's noise schedule."""

from typing import Any

from diffusers import DDIMScheduler

from pangu.config import NoiseSchedule
from pangu.errors import UserError


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
