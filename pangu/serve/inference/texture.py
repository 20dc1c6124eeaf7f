"""The texture pool, and that of an expert before it: from one boundary to the next or to clean latents, in steps of its own."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.config import Role
from pangu.diffusion.interval import steps_per_role
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.messages import Job, PoolResult, Preview
from pangu.serve.inference.pool import Pool, expert_of, half, keeping, owned_by, previewing, steps_of
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.request_loras import RequestLoras
from pangu.serve.settings import LoraSettings, PoolSettings

if TYPE_CHECKING:
    from pangu.pipelines.acting_adapters import ActingAdapters
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.trajectory import Trajectory


class TexturePool(Pool):
    """What lies below the first boundary: the texture half, or with `part` one of the experts that take turns before it."""

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        *,
        part: Role = "texture",
        loras: Mapping[str, LoraSettings] | None = None,
        loras_held: int = 8,
        **way: Any,
    ) -> None:
        self.part: Role = part
        super().__init__(worker, settings, **way)
        self._loras = RequestLoras(part, loras or {}, loras_held)

    async def finish(self, pool_result: PoolResult) -> PoolResult:
        """Continue a trajectory with the generator of the release that began it."""
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
        clock, job, kept = time.perf_counter(), pool_result.job, pool_result.kept
        owned, after = owned_by(pipeline, self.part), None if kept is None else keeping(kept)
        trajectory, walked = await self._on_its_whole(pipeline, acting, job, guided(pool_result, self.part))
        previewed, watch = pool_result.previewed, None
        if show is not None:

            def put(preview: Preview) -> None:
                nonlocal previewed
                previewed += 1
                show(preview)

            # Over the steps that are walked from here, whatever was drawn above, found in a cache, or retimed.
            watch = previewing(pool_result.release, job, trajectory, put, previewed)
        state = half(pipeline, self.part, trajectory, acting)
        if walked and after is not None:
            after(state)
        begun = trajectory.step
        run = await self._batcher.run(state, owned, watch, after=after)
        trajectory = run.state.trajectory
        walked += trajectory.timesteps[begun : trajectory.step].tolist()
        self._check_end(pipeline, trajectory)
        low = {self.part: pipeline.lows[self.part]}
        role_steps: dict[Role, int] = {**pool_result.role_steps, **steps_per_role(walked, low)}
        done = replace(pool_result, trajectory=trajectory, role_steps=role_steps, previewed=previewed)
        if trajectory.finished:
            done = replace(done, kept=None)
        seconds = dict(pool_result.seconds) | {self.part: time.perf_counter() - clock}
        batch_sizes = dict(pool_result.batch_sizes) | ({self.part: run.mean_batch_size} if walked else {})
        return self._leaving(replace(done, seconds=seconds, batch_sizes=batch_sizes))

    async def _on_its_whole(
        self, pipeline: "PanGuDrawPipeline", acting: "ActingAdapters | None", job: Job, trajectory: "Trajectory"
    ) -> "tuple[Trajectory, list[float]]":
        """The trajectory with the steps that this expert is asked for, and the timestep that was walked to get there, if any."""
        own_steps = job.wholes.get(self.part, job.texture.steps)
        if pipeline.contract(self.part).distilled:
            own_steps = None  # a student has the steps that it was made for
        if own_steps is None or own_steps == steps_of(trajectory) or trajectory.finished:
            return trajectory, []
        state = half(pipeline, self.part, trajectory, acting)
        first = await self._batcher.run(state, owned_by(pipeline, self.part), most=1)
        if first.state.last is None:
            return trajectory, []
        wholes = {**job.wholes, self.part: own_steps}
        walked = [first.state.last.timestep] * first.taken
        return pipeline.on_own_whole(self.part, first.state.last, wholes), walked

    def _check_end(self, pipeline: "PanGuDrawPipeline", trajectory: "Trajectory") -> None:
        """Raises RuntimeError where a trajectory does not end below this expert's interval."""
        end = pipeline.interval(expert_of(pipeline, self.part)).low
        if not trajectory.finished and (self.part == "texture" or trajectory.timestep >= end):
            raise RuntimeError(
                f"The scheduler went back above the boundary at step {trajectory.step}; it can not be served."
            )


def guided(pool_result: PoolResult, part: Role) -> "Trajectory":
    """Its trajectory with the guidance of an expert below the first boundary, where one between has its own."""
    trajectory, job = pool_result.trajectory, pool_result.job
    if not job.guidance_between:
        return trajectory
    below = job.guidance_scale if job.texture.guidance_scale is None else job.texture.guidance_scale
    scale = job.guidance_between.get(part, below)
    assert scale is not None, "the structure pool has filled in what the release prefers"
    return replace(trajectory, condition=replace(trajectory.condition, guidance_scale=scale))
