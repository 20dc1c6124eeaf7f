"""The structure pool: encodes the text, starts from noise, and runs to the boundary, or finds that run in its cache."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.messages import (
    Job,
    PoolResult,
    Preview,
    Received,
    Release,
    Unknown,
    Unread,
)
from pangu.serve.inference.pool import Pool, half, keeping, owned_by, previewing, steps_of
from pangu.serve.inference.prepared_job import Prepared, Towers, noised, prepare
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.request_loras import RequestLoras
from pangu.serve.inference.structure_cache import StructureCache, text_cache
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in, with_reading
from pangu.serve.settings import LoraSettings, PoolSettings

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.condition import Condition
    from pangu.sampling.inpainting import Kept
    from pangu.sampling.trajectory import Trajectory


class StructurePool(Pool):
    """The half above the boundary.

    cache_bytes: of the structure cache; 0 draws every structure anew. What the text towers say may take a quarter of it more.
    loras: adapters that requests may name, of which `loras_held` are in memory at once. way: what else a `Pool` takes.
    """

    part = "structure"

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        *,
        cache_bytes: int = 0,
        loras: Mapping[str, LoraSettings] | None = None,
        loras_held: int = 8,
        **way: Any,
    ) -> None:
        super().__init__(worker, settings, **way)
        self._loras = RequestLoras("structure", loras or {}, loras_held)
        self._cache = StructureCache(cache_bytes)
        self._texts = text_cache(cache_bytes // 4)

    async def begin(self, release: Release, job: Job) -> PoolResult:
        """Raises RequestError if this release can not draw the request."""
        return await self._drawn(release, job, None, None)

    async def begin_watched(self, release: Release, job: Job) -> AsyncIterator[Preview | PoolResult]:
        """As `begin`, with clean estimates on the way."""
        async with aclosing(self._watched(release, job, None)) as messages:
            async for message in messages:
                yield message

    async def resume(self, release: Release, job: Job, received: "Received") -> PoolResult:
        """Where an edit begins: the latents of the given image, noised to the first timestep that its strength asks for.

        Without a strength that is the first one below the boundary, where structure has nothing to do.
        """
        return await self._drawn(release, job, received, None)

    async def resume_watched(
        self, release: Release, job: Job, received: "Received"
    ) -> AsyncIterator[Preview | PoolResult]:
        """As `resume`, with clean estimates on the way."""
        async with aclosing(self._watched(release, job, received)) as messages:
            async for message in messages:
                yield message

    async def read(self, release: Release, job: Job) -> tuple[tuple[Unread, ...], tuple[Unknown, ...]]:
        """What of the texts of a request would not be read, and which words are unknown; nothing is drawn."""
        async with self._models.acquire(release) as pipeline:
            asked = with_reading(release, job)
            return await self._worker.run(lambda: (unread_in(pipeline, asked), unknown_in(pipeline, asked)))

    async def _watched(
        self, release: Release, job: Job, received: "Received | None"
    ) -> AsyncGenerator[Preview | PoolResult]:
        async def run(put: Callable[[Preview | PoolResult], None]) -> None:
            put(await self._drawn(release, job, received, put))

        async with aclosing(relayed(run)) as messages:
            async for message in messages:
                yield message

    async def _drawn(
        self, release: Release, job: Job, received: "Received | None", put: Callable[[Preview], None] | None
    ) -> PoolResult:
        async with self._models.acquire(release) as pipeline:
            if received is not None:
                job = replace(job, width_height=received.width_height)
            prepared, kept = await self._prepared(pipeline, release, job), None
            if received is not None:
                trajectory, kept = await self._worker.run(lambda: noised(pipeline, prepared, received))
                prepared = replace(prepared, trajectory=trajectory)
            return await self._run(pipeline, release, prepared, kept, put)

    async def _prepared(self, pipeline: "PanGuDrawPipeline", release: Release, job: Job) -> Prepared:
        self._loras.check(job)
        job = with_reading(release, job)
        towers = Towers(pipeline, release.key("structure"), self._texts)
        return await self._worker.run(lambda: prepare(towers, job))

    async def _run(
        self,
        pipeline: "PanGuDrawPipeline",
        release: Release,
        prepared: Prepared,
        kept: "Kept | None",
        put: Callable[[Preview], None] | None,
    ) -> PoolResult:
        clock, job, start, previewed = time.perf_counter(), prepared.job, prepared.trajectory, 0
        watch = None
        if put is not None:

            def show(preview: Preview) -> None:
                nonlocal previewed
                previewed += 1
                put(preview)

            watch = previewing(release, job, start, show)
        async with self._loras.acquire(pipeline, release, job) as acting:
            key = cache_key(release, job, prepared), None if acting is None else acting.key
            state, batch_size = half(pipeline, "structure", start, acting), 0.0
            # What an edit begins with is its own image.
            cached = job.source is None and self._cache.restore(key, state)
            if not cached:
                after = None if kept is None else keeping(kept)
                run = await self._batcher.run(state, owned_by(pipeline, "structure"), watch, after=after)
                batch_size = run.mean_batch_size
                if job.source is None:
                    self._cache.keep(key, state)
        trajectory = told(state.trajectory, prepared.below, job.texture.guidance_scale)
        took_part = job.source is None or trajectory.step > start.step
        seconds = {"text": prepared.text_s, "structure": time.perf_counter() - clock if took_part else 0.0}
        pool_result = PoolResult(
            release,
            job,
            prepared.width_height,
            trajectory,
            role_steps={"structure": trajectory.step - start.step},
            kept=kept,
            seconds=seconds,
            batch_sizes={"structure": batch_size} if took_part else {},
            cached=cached,
            previewed=previewed,
        )
        return self._leaving(pool_result)


def told(trajectory: "Trajectory", text: "Condition", guidance_scale: float | None = None) -> "Trajectory":
    """The trajectory with another text, and another guidance where that is given."""
    before = trajectory.condition
    scale = before.guidance_scale if guidance_scale is None else guidance_scale
    condition = replace(before, **vars(text.text), texts=text.texts, guidance_scale=scale)
    return replace(trajectory, condition=condition)


def cache_key(release: Release, job: Job, prepared: Prepared) -> Hashable:
    """Everything that the latents at the boundary depend on; nothing that only the texture half sees."""
    scheduler = prepared.trajectory.scheduler
    return (
        release.key("structure"),
        job.prompt,
        job.negative_prompt,
        job.images,
        job.seed,
        prepared.width_height,
        steps_of(prepared.trajectory),
        prepared.trajectory.condition.guidance_scale,
        type(scheduler).__name__,
        tuple(job.styles.items()),
        job.lora_scales.get("structure"),
        job.guidance_intervals.get("structure"),
        job.long_prompts,
    )
