"""The structure pool: encodes the text, starts from noise, and runs to the boundary, or finds that run in its cache."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu.diffusion.presets import nearest_of
from pangu.errors import UserError
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.halves import entered_below, with_steps
from pangu.serve.inference.messages import (
    Job,
    PoolResult,
    Preview,
    Received,
    Release,
    RequestError,
    Unknown,
    Unread,
)
from pangu.serve.inference.pool import Pool, half, keeping, owned_by, previewing, steps_of
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.request_loras import RequestLoras
from pangu.serve.inference.structure_cache import StructureCache, keep, text_cache
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in, with_reading
from pangu.serve.settings import LoraSettings, PoolSettings

if TYPE_CHECKING:
    from cachetools import LRUCache

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.condition import Condition
    from pangu.sampling.inpainting import Kept
    from pangu.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to run: its trajectory in noise, and what conditions it below the boundary.

    job: the request with the release's own values where it left something out.
    """

    job: Job
    trajectory: "Trajectory"
    below: "Condition"
    width_height: tuple[int, int]
    text_s: float


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
            asked = with_reading(pipeline, release, job)
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
        job = with_reading(pipeline, release, job)
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
            key = cache_key(release, job, prepared), acting.key
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


@dataclass(frozen=True)
class Towers:
    """The text towers of a release, which answer from a cache where they were asked before."""

    pipeline: "PanGuDrawPipeline"
    key: str
    texts: "LRUCache[Hashable, Condition]"

    def encode(
        self, prompt: str, negative: str | None, styles: Mapping[str, float], job: Job, param: str
    ) -> "Condition":
        """What they say of one prompt, once for each image of the request.

        Raises:
            RequestError: this release knows no such style; it names `param`.
        """
        long = job.long_prompts or "cut"
        key = self.key, prompt, negative, tuple(styles.items()), long
        once = self.texts.get(key)
        if once is None:
            with refusing(param):
                negatives = None if negative is None else [negative]
                once = self.pipeline.encode_prompt([prompt], negatives, styles, long_prompts=long)
            keep(self.texts, key, once)
        return once.repeat(job.images)


def prepare(towers: Towers, job: Job) -> Prepared:
    """Text embeddings and first noise.

    Raises:
        RequestError: this release has no such size, style, adapter or scheduler, or a half would have no step.
    """
    import torch

    from pangu.models.schedulers import named_sampler

    clock, pipeline = time.perf_counter(), towers.pipeline
    scheduler = pipeline.scheduler if job.scheduler is None else named_sampler(job.scheduler, pipeline.scheduler)
    job = resolved(pipeline, scheduler, job)
    assert job.width_height is not None and job.steps is not None and job.guidance_scale is not None
    (width, height), steps, guidance_scale = job.width_height, job.steps, job.guidance_scale
    with torch.inference_mode():
        above = towers.encode(job.prompt, job.negative_prompt, job.styles, job, "style")
        below = above if _same_text(job) else _texture_text(towers, job)
    job = replace(job, unread=unread_in(pipeline, job), unknown=unknown_in(pipeline, job))
    text_s = time.perf_counter() - clock
    with refusing("lora_scales"):
        trajectory = pipeline.start(
            above,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generators=generators_of(job),
            lora_scales=job.lora_scales,
            guidance_intervals=job.guidance_intervals,
            scheduler=scheduler,
        )
    return Prepared(job, trajectory, below.to(trajectory.latents_bchw.device), (width, height), text_s)


def resolved(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> Job:
    """The request with the release's own size, steps and guidance where it left them out.

    Raises:
        RequestError: this release has no such size, or a half would have no step.
    """
    own_scale = job.guidance_scale
    known = replace(
        job,
        width_height=checked_size(pipeline, job),
        guidance_scale=pipeline.sampling.guidance_scale if own_scale is None else own_scale,
    )
    return with_steps(pipeline, scheduler, known)


def generators_of(job: Job) -> list[Any]:
    """A noise source for each image; on the CPU whatever the device, so that a seed means the same image everywhere."""
    import torch

    return [torch.Generator().manual_seed(job.seed_of(image)) for image in range(job.images)]


def noised(
    pipeline: "PanGuDrawPipeline", prepared: Prepared, received: "Received"
) -> tuple["Trajectory", "Kept | None"]:
    """The state of an image, once for each seed, at the first timestep where the edit begins; and what stays of the image."""
    from pangu.models.schedulers import noise_scale
    from pangu.sampling.entering import start_from_clean
    from pangu.sampling.inpainting import Kept

    start = prepared.trajectory
    noise = start.latents_bchw / noise_scale(start.scheduler)
    clean = received.latents_1chw.to(noise.device, noise.dtype).expand_as(noise)
    kept = None if received.drawn_11hw is None else Kept(clean.cpu(), noise.cpu(), received.drawn_11hw)
    return start_from_clean(start, entered_below(pipeline, prepared.job), clean, noise), kept


def checked_size(pipeline: "PanGuDrawPipeline", job: Job) -> tuple[int, int]:
    """The (width, height) to draw: the preferred one where none is given, and the nearest shape where the request takes it.

    Raises:
        RequestError: this release has no such preset.
    """
    width, height = job.width_height or (pipeline.resolution, pipeline.resolution)
    if (height, width) not in pipeline.sizes:
        if job.nearest_size:
            height, width = pipeline.sizes[nearest_of(height, width, pipeline.sizes)]
            return width, height
        known = ", ".join(f"{w}x{h}" for h, w in pipeline.sizes)
        raise RequestError(f"Invalid value for 'size': this model draws {known}, not {width}x{height}.", "size")
    return width, height


def _texture_text(towers: Towers, job: Job) -> "Condition":
    own = job.texture
    return towers.encode(
        job.prompt if own.prompt is None else own.prompt,
        job.negative_prompt if own.negative_prompt is None else own.negative_prompt,
        job.styles if own.styles is None else own.styles,
        job,
        "texture",
    )


def _same_text(job: Job) -> bool:
    own = job.texture
    return own.prompt is None and own.negative_prompt is None and own.styles is None


class refusing:
    """Within it, a UserError becomes a RequestError about `param`."""

    def __init__(self, param: str) -> None:
        self._param = param

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError) and not isinstance(error, RequestError):
            raise RequestError(f"Invalid value for '{self._param}': {error}", self._param) from error
