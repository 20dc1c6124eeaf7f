"""The texture pool: runs from the boundary to the clean latents, if asked with another number of steps than above it."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.config import Role
from pangu.diffusion.interval import steps_per_role
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.messages import PoolResult, Preview
from pangu.serve.inference.pool import Pool, experts_of, half, keeping, owned_by, previewing, steps_of
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.request_loras import RequestLoras
from pangu.serve.settings import LoraSettings, PoolSettings

if TYPE_CHECKING:
    from pangu.pipelines.acting_adapters import ActingAdapters
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


class TexturePool(Pool):
    """What lies below the boundary: the texture half, and whatever experts take turns before it."""

    part = "texture"

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        *,
        loras: Mapping[str, LoraSettings] | None = None,
        loras_held: int = 8,
        **way: Any,
    ) -> None:
        super().__init__(worker, settings, **way)
        self._loras = RequestLoras("texture", loras or {}, loras_held)

    async def finish(self, pool_result: PoolResult) -> PoolResult:
        """Continue a trajectory with the texture generator of the release that began it."""
        pool_result = self._arrived(pool_result)
        async with self._acquired(pool_result) as (pipeline, acting):
            return await self._run(pipeline, acting, pool_result, None)

    async def finish_watched(self, pool_result: PoolResult) -> AsyncIterator[Preview | PoolResult]:
        """As `finish`, with clean estimates on the way."""
        pool_result = self._arrived(pool_result)
        async with self._acquired(pool_result) as (pipeline, acting):

            async def run(put: Callable[[Preview | PoolResult], None]) -> None:
                put(await self._run(pipeline, acting, pool_result, put))

            async with aclosing(relayed(run)) as messages:
                async for message in messages:
                    yield message

    @asynccontextmanager
    async def _acquired(
        self, pool_result: PoolResult
    ) -> "AsyncIterator[tuple[PanGuDrawPipeline, ActingAdapters | None]]":
        release = pool_result.release
        async with (
            self._models.acquire(release) as pipeline,
            self._loras.acquire(pipeline, release, pool_result.job) as acting,
        ):
            yield pipeline, acting

    async def _run(
        self,
        pipeline: "PanGuDrawPipeline",
        acting: "ActingAdapters | None",
        pool_result: PoolResult,
        show: Callable[[Preview], None] | None,
    ) -> PoolResult:
        from pangu.models.half_steps import retimed

        clock = time.perf_counter()
        trajectory, own_steps = pool_result.trajectory, pool_result.job.texture.steps
        kept, walked, owned = pool_result.kept, list[float](), owned_by(pipeline, "texture")
        after = None if kept is None else keeping(kept)
        if pipeline.contract("texture").distilled:
            own_steps = None  # a student has the steps that it was made for
        if own_steps is not None and own_steps != steps_of(trajectory) and not trajectory.finished:
            first = await self._batcher.run(half(pipeline, "texture", trajectory, acting), owned, most=1)
            if first.state.last is not None:
                walked = [first.state.last.timestep] * first.taken
                shifted = pipeline.timestep_arguments(*trajectory.latents_bchw.shape[-2:])
                trajectory = retimed(first.state.last, own_steps, **shifted)
        watch = None
        if show is not None:
            # Over the steps that are walked here, whatever was drawn above the boundary, found in a cache, or retimed.
            watch = previewing(pool_result.release, pool_result.job, trajectory, show, pool_result.previewed)
        state = half(pipeline, "texture", trajectory, acting)
        if walked and after is not None:
            after(state)
        walked += trajectory.timesteps[trajectory.step :].tolist()
        run = await self._batcher.run(state, owned, watch, after=after)
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
