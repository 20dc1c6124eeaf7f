"""How many steps each expert of a pair takes, and the least number with which none is left without one.

A half without steps would draw nothing of what was asked of it: its prompt, guidance and style would mean nothing.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.config import Role
from pangu.errors import UserError
from pangu.serve.inference.messages import Job, RequestError

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def entered_below(pipeline: "PanGuDrawPipeline", job: Job) -> float:
    """The timestep below which an edit begins: the boundary, unless it has a strength (arXiv 2108.01073), its part of all."""
    if job.strength is None:
        return pipeline.boundary
    return job.strength * pipeline.reference.schedule.num_train_timesteps


def _least(pipeline: "PanGuDrawPipeline", scheduler: Any, entered: float) -> int:
    """The least number of steps of a whole that gives each expert one, or those below the boundary where it is entered there.

    Raises:
        UserError: no number does.
    """
    from pangu.models.schedulers import least_steps

    total = pipeline.reference.schedule.num_train_timesteps
    return least_steps(scheduler, pipeline.lows, strength=min(entered / total, 1.0))


def with_steps(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> Job:
    """The request with the steps of its whole trajectory, and of others below the boundary where each half takes its own number.

    Raises:
        RequestError: a half that should draw would have no step. The sentence names the least number.
    """
    if not job.role_steps and not job.split_by_log_snr:
        return replace(job, steps=checked_steps(pipeline, scheduler, job))
    from pangu.models.half_steps import split_by_log_snr, wholes_of

    own, boundaries = job.role_steps, [pipeline.boundary, *list(pipeline.lows.values())[1:-1]]
    if own and (left_out := [role for role in pipeline.roles if role not in own]):
        param = f"num_inference_steps.{left_out[0]}"
        raise RequestError(f"Missing required parameter: '{param}'; this model has an expert of that name.", param)
    try:
        if job.split_by_log_snr:
            own = split_by_log_snr(scheduler, _preferred(pipeline, job), *boundaries)
        assert job.width_height is not None, "the size is known before the steps"
        factor = pipeline.reference.spatial_factor
        width, height = (side // factor for side in job.width_height)
        entered = {} if job.source is None else {"entered_below": entered_below(pipeline, job)}
        arguments = pipeline.timestep_arguments(height, width)
        above, *below = wholes_of(scheduler, own, boundaries, **entered, **arguments)
    except UserError as error:
        raise RequestError(f"Invalid value for 'num_inference_steps': {error}", "num_inference_steps") from error
    if len(below) > 1:
        return replace(job, role_steps=own, steps=above, wholes=dict(zip(pipeline.roles[1:], below, strict=True)))
    texture = replace(job.texture, steps=None if below[0] == above else below[0])
    return replace(job, role_steps=own, steps=above, texture=texture)


def _preferred(pipeline: "PanGuDrawPipeline", job: Job) -> int:
    return job.steps or max(1, round(pipeline.sampling.num_inference_steps * job.step_factor))


def checked_steps(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> int:
    """The steps of the request; where it names no number, those that the release prefers, and no fewer than the halves need.

    Raises:
        RequestError: a half that should draw would have no step. The sentence names the least number.
    """
    steps = _preferred(pipeline, job)
    # The layout of an edit is that of its image, so structure may have no step in it.
    needed = pipeline.roles if job.source is None else pipeline.roles[1:]
    entered = math.inf if job.source is None else entered_below(pipeline, job)
    if idle := _idle(pipeline, scheduler, steps, needed, entered):
        least = _least(pipeline, scheduler, entered if job.source is None else min(entered, pipeline.boundary))
        if job.steps is not None:
            raise _too_few("num_inference_steps", steps, idle, least)
        steps = max(steps, least)
    own = job.texture.steps
    if own is not None and (idle := _idle(pipeline, scheduler, own, pipeline.roles[1:])):
        least = _least(pipeline, scheduler, pipeline.boundary)
        raise _too_few("texture.num_inference_steps", own, idle, least)
    return steps


def _idle(
    pipeline: "PanGuDrawPipeline", scheduler: Any, steps: int, needed: tuple[Role, ...], entered: float = math.inf
) -> Role | None:
    """The first expert that should draw and would have no step."""
    return next((role for role in pipeline.idle(scheduler, steps, entered) if role in needed), None)


def _too_few(param: str, steps: int, idle: Role, least: int) -> RequestError:
    return RequestError(
        f"Invalid value for '{param}': {steps} would leave the {idle} half without a step; the least is {least}.", param
    )
