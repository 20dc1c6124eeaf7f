"""The texture pool: runs from the boundary to the clean latents, if asked with another number of steps than above it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.diffusion.interval import steps_per_role
from pangu.serve.inference.messages import PoolResult, Preview
from pangu.serve.inference.pool import Pool, experts_of, half, owned_by, previewing, steps_of
from pangu.serve.inference.relay import relayed

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.sampling_state import SamplingState
    from pangu.sampling.trajectory import Step, Trajectory


class TexturePool(Pool):
    """What lies below the boundary: the texture half, and whatever experts take turns before it."""

    part = "texture"

    async def finish(self, pool_result: PoolResult) -> PoolResult:
        """Continue a trajectory with the texture generator of the release that began it."""
        pool_result = self._arrived(pool_result)
        async with self._models.acquire(pool_result.release) as pipeline:
            return await self._run(pipeline, pool_result, None)

    async def finish_watched(self, pool_result: PoolResult) -> AsyncIterator[Preview | PoolResult]:
        """As `finish`, with clean estimates on the way."""
        pool_result = self._arrived(pool_result)
        async with self._models.acquire(pool_result.release) as pipeline:

            async def run(put: Callable[[Preview | PoolResult], None]) -> None:
                put(await self._run(pipeline, pool_result, put))

            async with aclosing(relayed(run)) as messages:
                async for message in messages:
                    yield message

    async def _run(
        self, pipeline: "PanGuDrawPipeline", pool_result: PoolResult, show: Callable[[Preview], None] | None
    ) -> PoolResult:
        clock = time.perf_counter()
        trajectory, own_steps = pool_result.trajectory, pool_result.job.texture.steps
        walked, after, owned = [], keeping(pool_result), owned_by(pipeline, "texture")
        if own_steps is not None and own_steps != steps_of(trajectory) and not trajectory.finished:
            first = await self._batcher.run(half(pipeline, "texture", trajectory), owned, most=1)
            if first.state.last is not None:
                walked = [first.state.last.timestep] * first.taken
                trajectory = retimed(first.state.last, own_steps)
        watch = None
        if show is not None:
            # Over the steps that are walked here, whatever was drawn above the boundary, found in a cache, or retimed.
            watch = previewing(pool_result.release, pool_result.job, trajectory, show, pool_result.previewed)
        walked += trajectory.timesteps[trajectory.step :].tolist()
        run = await self._batcher.run(half(pipeline, "texture", trajectory), owned, watch, after=after)
        trajectory = run.state.trajectory
        if not trajectory.finished:
            raise RuntimeError(
                f"The scheduler went back above the boundary at step {trajectory.step}; it can not be served."
            )
        seconds = dict(pool_result.seconds) | {"texture": time.perf_counter() - clock}
        batch_sizes = dict(pool_result.batch_sizes) | {"texture": run.mean_batch_size}
        below = {role: low for role, low in pipeline.lows.items() if role in experts_of(pipeline, "texture")}
        role_steps: dict[Role, int] = {**pool_result.role_steps, **steps_per_role(walked, below)}
        done = replace(pool_result, trajectory=trajectory, role_steps=role_steps, kept=None)
        return self._leaving(replace(done, seconds=seconds, batch_sizes=batch_sizes))


def keeping(pool_result: PoolResult) -> "Callable[[SamplingState], None] | None":
    """What puts the kept part of a masked edit back after each step; None where all is drawn."""
    kept = pool_result.kept
    if kept is None:
        return None
    from pangu.sampling.inpainting import with_kept

    def keep(state: "SamplingState") -> None:
        state.trajectory = with_kept(state.trajectory, kept)

    return keep


def retimed(step: "Step", steps: int) -> "Trajectory":
    """The trajectory of a first step below the boundary, continued on the timesteps of a whole of `steps` steps."""
    from pangu.models.schedulers import fresh_scheduler
    from pangu.sampling.entering import start_from_clean

    scheduler = fresh_scheduler(step.trajectory.scheduler, steps)
    fresh = replace(step.trajectory, scheduler=scheduler, timesteps=scheduler.timesteps, step=0)
    return start_from_clean(fresh, step.timestep, step.clean_bchw, step.noise_bchw)
