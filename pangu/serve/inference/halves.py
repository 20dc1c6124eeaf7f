"""How many steps each half of a pair takes, and the least number with which neither is left without one.

A half without steps would draw nothing of what was asked of it: its prompt, guidance and style would mean nothing.
"""

from typing import TYPE_CHECKING, Any

from pangu.config import Role
from pangu.diffusion.interval import steps_per_role
from pangu.serve.inference.messages import Job, RequestError

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def _least(pipeline: "PanGuDrawPipeline", scheduler: Any, needed: tuple[Role, ...]) -> int:
    """The least number of steps of a whole that gives each of the `needed` experts one.

    Raises:
        UserError: no number does.
    """
    from pangu.models.schedulers import least_steps

    below = pipeline.boundary / pipeline.reference.schedule.num_train_timesteps
    return least_steps(scheduler, pipeline.lows, strength=1.0 if "structure" in needed else below)


def checked_steps(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> int:
    """The steps of the request; where it names no number, those that the release prefers, and no fewer than the halves need.

    Raises:
        RequestError: a half that should draw would have no step. The sentence names the least number.
    """
    needed = pipeline.roles if job.source is None else pipeline.roles[1:]
    steps = job.steps or max(1, round(pipeline.sampling.num_inference_steps * job.step_factor))
    if idle := _idle(pipeline, scheduler, steps, needed):
        least = _least(pipeline, scheduler, needed)
        if job.steps is not None:
            raise _too_few("num_inference_steps", steps, idle, least)
        steps = max(steps, least)
    own = job.texture.steps
    if own is not None and (idle := _idle(pipeline, scheduler, own, pipeline.roles[1:])):
        least = _least(pipeline, scheduler, pipeline.roles[1:])
        raise _too_few("texture.num_inference_steps", own, idle, least)
    return steps


def _idle(pipeline: "PanGuDrawPipeline", scheduler: Any, steps: int, needed: tuple[Role, ...]) -> Role | None:
    """The first expert that should draw and would have no step."""
    from pangu.models.schedulers import fresh_scheduler

    taken = steps_per_role(fresh_scheduler(scheduler, steps).timesteps.tolist(), pipeline.lows)
    return next((role for role in needed if not taken[role]), None)


def _too_few(param: str, steps: int, idle: Role, least: int) -> RequestError:
    return RequestError(
        f"Invalid value for '{param}': {steps} would leave the {idle} half without a step; the least is {least}.", param
    )
