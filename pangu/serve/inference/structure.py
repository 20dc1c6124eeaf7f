"""The structure pool: encodes the text, starts from noise, and runs to the boundary, or finds that run in its cache."""

import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu.diffusion.presets import nearest_of
from pangu.errors import UserError
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.halves import checked_steps
from pangu.serve.inference.messages import Job, PoolResult, Preview, Received, Release, RequestError
from pangu.serve.inference.pool import Pool, half, owned_by, previewing, steps_of
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.steps import Watcher
from pangu.serve.inference.structure_cache import StructureCache, keep, text_cache
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in
from pangu.serve.settings import PoolSettings

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
    way: what else a `Pool` takes.
    """

    part = "structure"

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        *,
        cache_bytes: int = 0,
        **way: Any,
    ) -> None:
        super().__init__(worker, settings, **way)
        self._cache = StructureCache(cache_bytes)
        self._texts = text_cache(cache_bytes // 4)

    async def begin(self, release: Release, job: Job) -> PoolResult:
        """Raises RequestError if this release can not draw the request."""
        async with self._models.acquire(release) as pipeline:
            prepared = await self._prepared(pipeline, release, job)
            return await self._run(pipeline, release, prepared.job, prepared, None)

    async def begin_watched(self, release: Release, job: Job) -> AsyncIterator[Preview | PoolResult]:
        """As `begin`, with clean estimates on the way."""
        async with self._models.acquire(release) as pipeline:
            prepared = await self._prepared(pipeline, release, job)
            job, previewed = prepared.job, 0

            async def run(put: Callable[[Preview | PoolResult], None]) -> None:
                def show(preview: Preview) -> None:
                    nonlocal previewed
                    previewed += 1
                    put(preview)

                watch = previewing(release, job, prepared.trajectory, show)
                pool_result = await self._run(pipeline, release, job, prepared, watch)
                put(replace(pool_result, previewed=previewed))

            async with aclosing(relayed(run)) as messages:
                async for message in messages:
                    yield message

    async def resume(self, release: Release, job: Job, received: "Received") -> PoolResult:
        """Where an edit begins: the latents of the given image, noised to the first timestep below the boundary."""
        async with self._models.acquire(release) as pipeline:
            prepared = await self._prepared(pipeline, release, replace(job, width_height=received.width_height))
            trajectory, kept = await self._worker.run(lambda: noised(pipeline, prepared.trajectory, received))
            pool_result = PoolResult(
                release,
                prepared.job,
                prepared.width_height,
                told(trajectory, prepared.below),
                role_steps={"structure": 0},
                kept=kept,
                seconds={"text": prepared.text_s, "structure": 0.0},
            )
            return self._leaving(pool_result)

    async def _prepared(self, pipeline: "PanGuDrawPipeline", release: Release, job: Job) -> Prepared:
        towers = Towers(pipeline, release.key("structure"), self._texts)
        return await self._worker.run(lambda: prepare(towers, job))

    async def _run(
        self, pipeline: "PanGuDrawPipeline", release: Release, job: Job, prepared: Prepared, watch: Watcher | None
    ) -> PoolResult:
        clock = time.perf_counter()
        key = cache_key(release, job, prepared)
        state, batch_size = half(pipeline, "structure", prepared.trajectory), 0.0
        cached = self._cache.restore(key, state)
        if not cached:
            batch_size = (await self._batcher.run(state, owned_by(pipeline, "structure"), watch)).mean_batch_size
            self._cache.keep(key, state)
        trajectory = told(state.trajectory, prepared.below, job.texture.guidance_scale)
        seconds = {"text": prepared.text_s, "structure": time.perf_counter() - clock}
        pool_result = PoolResult(
            release,
            job,
            prepared.width_height,
            trajectory,
            role_steps={"structure": trajectory.step},
            seconds=seconds,
            batch_sizes={"structure": batch_size},
            cached=cached,
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
    )


@dataclass(frozen=True)
class Towers:
    """The text towers of a release, which answer from a cache where they were asked before."""

    pipeline: "PanGuDrawPipeline"
    key: str
    texts: "LRUCache[Hashable, Condition]"

    def encode(
        self, prompt: str, negative: str | None, styles: Mapping[str, float], images: int, param: str
    ) -> "Condition":
        """What they say of one prompt, once for each of `images`.

        Raises:
            RequestError: this release knows no such style; it names `param`.
        """
        key = self.key, prompt, negative, tuple(styles.items())
        once = self.texts.get(key)
        if once is None:
            with refusing(param):
                once = self.pipeline.encode_prompt([prompt], None if negative is None else [negative], styles)
            keep(self.texts, key, once)
        return once.repeat(images)


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
        above = towers.encode(job.prompt, job.negative_prompt, job.styles, job.images, "style")
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
            scheduler=scheduler,
        )
    return Prepared(job, trajectory, below.to(trajectory.latents_bchw.device), (width, height), text_s)


def resolved(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> Job:
    """The request with the release's own size, steps and guidance where it left them out.

    Raises:
        RequestError: this release has no such size, or a half would have no step.
    """
    own_scale = job.guidance_scale
    return replace(
        job,
        width_height=checked_size(pipeline, job),
        steps=checked_steps(pipeline, scheduler, job),
        guidance_scale=pipeline.sampling.guidance_scale if own_scale is None else own_scale,
    )


def generators_of(job: Job) -> list[Any]:
    """A noise source for each image; on the CPU whatever the device, so that a seed means the same image everywhere."""
    import torch

    return [torch.Generator().manual_seed(job.seed_of(image)) for image in range(job.images)]


def noised(
    pipeline: "PanGuDrawPipeline", start: "Trajectory", received: "Received"
) -> tuple["Trajectory", "Kept | None"]:
    """The first state below the boundary whose clean latents are those of an image, once for each seed; and what stays of it."""
    from pangu.models.schedulers import noise_scale
    from pangu.sampling.entering import start_from_clean
    from pangu.sampling.inpainting import Kept

    noise = start.latents_bchw / noise_scale(start.scheduler)
    clean = received.latents_1chw.to(noise.device, noise.dtype).expand_as(noise)
    kept = None if received.drawn_11hw is None else Kept(clean.cpu(), noise.cpu(), received.drawn_11hw)
    return start_from_clean(start, pipeline.boundary, clean, noise), kept


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
        job.images,
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
