"""The coop pool: the whole pair as main model, and partners of a declared list, loaded when a request names them.

A request names partners, never places: what a name stands for is in the settings of the server.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu.diffusion.interval import steps_per_role
from pangu.errors import NotFinite, UserError
from pangu.serve.error_answers import printable
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.image_encoding import read_image
from pangu.serve.inference.messages import Job, PoolResult, Preview, Release, RequestError
from pangu.serve.inference.model_cache import ModelCache
from pangu.serve.inference.parts import placed
from pangu.serve.inference.pool import Pool, owned_by, previewing
from pangu.serve.inference.prepared_job import generators_of, resolved
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.structure_cache import StructureCache
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in
from pangu.serve.settings import CoopSettings, PartnerSettings

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.sampling_state import SamplingState


class CoopPool(Pool):
    """Coop-Diffusion with the served pair (PanGu-Draw, Algorithm 1). Partners beyond `settings.held` make way for each other."""

    part = "coop"

    def __init__(self, worker: Worker, settings: CoopSettings, *, cache_bytes: int = 0, **way: Any) -> None:
        super().__init__(worker, settings.pool, **way)
        self._coop = settings
        self._cache = StructureCache(cache_bytes)
        self._partners: ModelCache[str, Any] = ModelCache(self._load_partner, lambda name: name, settings.held)

    def _load_partner(self, name: str) -> Any:
        from pangu.pipelines.coop.loading import load_pipeline

        declared = self._coop.partners[name]
        pipeline = load_pipeline(declared.source, list(declared.controlnets) or None)
        pipeline.set_progress_bar_config(disable=True)
        return placed(pipeline, self._coop.pool.precision)

    @property
    def loaded(self) -> list[str]:
        """Names of the partners at hand, least recently used first."""
        return self._partners.ready

    async def draw(self, release: Release, job: Job) -> PoolResult:
        """One request from text to clean latents.

        Raises:
            RequestError: a partner that is not declared, too many of them at once, or an image that does not fit.
        """
        return await self._drawn(release, job, None)

    async def draw_watched(self, release: Release, job: Job) -> AsyncIterator[Preview | PoolResult]:
        """As `draw`, with clean estimates on the way."""

        async def produce(put: Callable[[Preview | PoolResult], None]) -> None:
            put(await self._drawn(release, job, put))

        async with aclosing(relayed(produce)) as messages:
            async for message in messages:
                yield message

    async def _drawn(self, release: Release, job: Job, show: Callable[[Preview], None] | None) -> PoolResult:
        assert job.coop is not None, "only requests with a coop field come here"
        names = job.coop.partners
        check_partners(names, self._coop)
        async with AsyncExitStack() as stack:
            pipeline = await stack.enter_async_context(self._models.acquire(release))
            try:
                # In one order for all, so that two requests never wait for each other's partners.
                held = {
                    name: await stack.enter_async_context(self._partners.acquire(name)) for name in sorted(set(names))
                }
            except UserError as error:
                raise RuntimeError(f"A declared partner can not be loaded: {error}") from error
            declared = [self._coop.partners[name] for name in names]
            models = [held[name] for name in names]
            clock = time.perf_counter()
            begun = await self._worker.run(lambda: began(pipeline, models, declared, job))
            return await self._walked(pipeline, release, begun, clock, show)

    async def _walked(
        self,
        pipeline: "PanGuDrawPipeline",
        release: Release,
        begun: "Begun",
        clock: float,
        show: Callable[[Preview], None] | None,
    ) -> PoolResult:
        """From the first step to the last, or from the boundary where these models came to it before for the same request."""
        state, job = begun.state, begun.job
        key = cache_key(release, job)
        cached, runs = self._cache.restore(key, state), []
        watch = None if show is None else previewing(release, job, state.trajectory, show)
        if not cached:
            runs.append(await self._batcher.run(state, owned_by(pipeline, "structure"), watch))
            self._cache.keep(key, state)
        runs.append(await self._batcher.run(state, watch=watch))
        await self._worker.run(state.check_crossings)
        asked = sum(run.asked for run in runs)
        return self._leaving(
            PoolResult(
                release,
                job,
                begun.width_height,
                state.trajectory,
                role_steps=steps_per_role(state.trajectory.timesteps.tolist(), pipeline.lows),
                seconds={"coop": time.perf_counter() - clock},
                batch_sizes={"coop": sum(run.batch for run in runs) / asked if asked else 0.0},
                cached=cached,
            )
        )


def check_partners(names: tuple[str, ...], settings: CoopSettings) -> None:
    """Raises RequestError for a name that is not declared, and for more partners than can be held at once."""
    known = ", ".join(settings.partners) or "none"
    for name in names:
        if name not in settings.partners:
            raise refusal("partners", f"'{printable(name)}' is not served; known are {known}")
    if len(names) != len(set(names)):
        raise refusal("partners", "each partner may be named once")
    if len(names) > settings.held:
        raise refusal("partners", f"at most {settings.held} can help at once")


def refusal(field: str, reason: str) -> RequestError:
    param = f"coop.{field}"
    return RequestError(f"Invalid value for '{param}': {reason}.", param)


@dataclass(frozen=True)
class Begun:
    """A cooperation before its first step. job: nothing in it is left to the preferences of the release."""

    job: Job
    state: "SamplingState"
    width_height: tuple[int, int]


def began(pipeline: "PanGuDrawPipeline", partners: list[Any], declared: list[PartnerSettings], job: Job) -> Begun:
    """Text, bridges and first noise, in the drawing thread.

    Raises:
        RequestError: the release and these partners can not draw the request.
    """
    import torch

    from pangu.pipelines.coop import CoopPipeline

    job = resolved(pipeline, pipeline.scheduler, job)
    job = replace(job, unread=unread_in(pipeline, job), unknown=unknown_in(pipeline, job))
    assert job.width_height is not None and job.steps is not None and job.guidance_scale is not None
    width, height = job.width_height
    try:
        coop = CoopPipeline(pipeline, members(job, partners, declared))
        with torch.inference_mode():
            state = coop.begin(
                job.prompt,
                negative_prompt=job.negative_prompt,
                height=height,
                width=width,
                num_inference_steps=job.steps,
                guidance_scale=job.guidance_scale,
                num_images_per_prompt=job.images,
                generator=generators_of(job),
                extra={"styles": dict(job.styles)} if job.styles else None,
            )
    except (RequestError, NotFinite):
        raise
    except UserError as error:
        raise RequestError(f"Invalid value for 'coop': {error}", "coop") from error
    return Begun(job, state, job.width_height)


def cache_key(release: Release, job: Job) -> Hashable:
    """Everything that a cooperation depends on; not what becomes of its pictures."""
    drawn = replace(job, output_format="png", output_compression=0, partial_images=0)
    return release.key("coop"), hashlib.sha256(repr(drawn).encode("utf-8", "backslashreplace")).digest()


def members(job: Job, partners: list[Any], declared: list[PartnerSettings]) -> list[Any]:
    """The partners as `CoopPipeline` takes them.

    Raises:
        RequestError: a control image is missing, not wanted, or no PNG; or there is an image to vary and nobody who does.
    """
    from pangu.pipelines.coop import Partner

    asked = job.coop
    assert asked is not None
    varying = [own.varies_image and asked.varied is not None for own in declared]
    steered = [own.takes_image and not varies for own, varies in zip(declared, varying, strict=True)]
    if asked.varied is not None and not any(varying):
        raise refusal("partners", "none of them varies an image")
    if asked.shared_image and not any(steered):
        raise refusal("control_image", "none of the partners takes one")
    result = []
    for place, (name, model, own) in enumerate(zip(asked.partners, partners, declared, strict=True)):
        file = None if asked.shared_image and not steered[place] else asked.images[place]
        if steered[place] != (file is not None):
            wants = "needs a control image" if steered[place] else "takes no control image"
            raise refusal("control_image", f"partner '{name}' {wants}")
        image = None if file is None else read_image(file, "coop.control_image", ("PNG",))
        if varying[place]:
            assert asked.varied is not None
            image = read_image(asked.varied, "image")
        several = len(own.controlnets) > 1
        result.append(
            Partner(
                model,
                name=name,
                strength=asked.strengths[place],
                start=asked.start,
                stop=asked.stop,
                every=asked.every,
                image=[image] * len(own.controlnets) if several else image,
                height=own.height,
                width=own.width,
                upsample=asked.upsample or own.upsample,
            )
        )
    return result
