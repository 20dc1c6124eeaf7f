"""The texture pool: walks from the boundary to the clean latents, if asked with another number of steps than above it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.serve.drawing.messages import Glimpse, Handoff
from pangu.serve.drawing.pool import Pool, glimpsing, steps_of
from pangu.serve.drawing.relay import relayed

if TYPE_CHECKING:
    from pangu.diffusion.trajectory import OnStep, Step, Trajectory
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


class TexturePool(Pool):
    """The half below the boundary."""

    part = "texture"

    async def finish(self, handoff: Handoff) -> Handoff:
        """Continue a trajectory with the texture generator of the release that began it."""
        handoff = self._arrived(handoff)
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._walked(pipeline, handoff, None)

    async def finish_watched(self, handoff: Handoff) -> AsyncIterator[Glimpse | Handoff]:
        """As `finish`, with clean estimates on the way."""
        handoff = self._arrived(handoff)
        async with self._shelf.hold(handoff.release) as pipeline:

            async def walk(put: Callable[[Glimpse | Handoff], None]) -> None:
                put(await self._walked(pipeline, handoff, put))

            async with aclosing(relayed(walk)) as messages:
                async for message in messages:
                    yield message

    async def _walked(
        self, pipeline: "PanGuDrawPipeline", handoff: Handoff, show: Callable[[Glimpse], None] | None
    ) -> Handoff:
        clock = time.perf_counter()
        trajectory, own_steps = handoff.trajectory, handoff.job.texture.steps
        taken, after = 0, keeping(pipeline, handoff)
        if own_steps is not None and own_steps != steps_of(trajectory) and not trajectory.finished:
            first = await self._batcher.walk(pipeline, "texture", trajectory, most=1)
            if first.last is not None:
                trajectory, taken = retimed(pipeline, first.last, own_steps), first.taken
        watch = None
        if show is not None:
            # Over the steps that are walked here, whatever was drawn above the boundary, found in a cache, or retimed.
            watch = glimpsing(pipeline, handoff.release, handoff.job, trajectory, show, handoff.glimpsed)
        walk = await self._batcher.walk(pipeline, "texture", trajectory, watch, after=after)
        if not walk.trajectory.finished:
            raise RuntimeError(
                f"The scheduler went back above the boundary at step {walk.trajectory.step}; it can not be served."
            )
        seconds = dict(handoff.seconds) | {"texture": time.perf_counter() - clock}
        company = dict(handoff.company) | {"texture": walk.mean_company}
        role_steps: dict[Role, int] = {**handoff.role_steps, "texture": taken + walk.taken}
        done = replace(handoff, trajectory=walk.trajectory, role_steps=role_steps, kept=None)
        return self._leaving(replace(done, seconds=seconds, company=company))


def keeping(pipeline: "PanGuDrawPipeline", handoff: Handoff) -> "OnStep | None":
    """What puts the kept part of a masked edit back after each step; None where all is drawn."""
    kept = handoff.kept
    if kept is None:
        return None
    from pangu.diffusion.inpainting import with_kept

    return lambda trajectory: with_kept(trajectory, pipeline.reference.schedule, kept)


def retimed(pipeline: "PanGuDrawPipeline", step: "Step", steps: int) -> "Trajectory":
    """The trajectory of a first step below the boundary, continued on the timesteps of a whole of `steps` steps."""
    from pangu.diffusion.estimate import clean_estimate, entered, noise_estimate
    from pangu.models.schedulers import fresh_scheduler

    before, schedule = step.trajectory, pipeline.reference.schedule
    scheduler = fresh_scheduler(before.scheduler, steps)
    fresh = replace(before, scheduler=scheduler, timesteps=scheduler.timesteps, step=0)
    clean, noise = clean_estimate(step, schedule), noise_estimate(step, schedule)
    return entered(fresh, schedule, step.timestep, clean, noise)
