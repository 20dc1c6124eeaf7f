"""The coop pool: the whole pair as main model, and partners of a declared list, loaded when a request names them.

A request names partners, never places: what a name stands for is in the settings of the server.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.errors import NotFinite, UserError
from pangu.serve.error_answers import printable
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.decoder import decoded
from pangu.serve.inference.facts import facts_of, request_of
from pangu.serve.inference.halves import steps_of_halves
from pangu.serve.inference.image_encoding import files_of, finite_images, read_image
from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage, Release, RequestError
from pangu.serve.inference.model_cache import ModelCache
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.parts import placed
from pangu.serve.inference.pool import Loader, Pool, preview_steps
from pangu.serve.inference.relay import relayed
from pangu.serve.inference.structure import generators_of, resolved
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in
from pangu.serve.settings import CoopSettings, PartnerSettings

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


Show = Callable[[PartialImage], None]


class Cancelled(Exception):
    """The client left; the remaining steps are not worth drawing."""


class CoopPool(Pool):
    """Coop-Diffusion with the served pair (PanGu-Draw, Algorithm 1). Partners beyond `settings.held` make way for each other."""

    part = "coop"

    def __init__(
        self, worker: Worker, settings: CoopSettings, moderator: Moderator | None = None, *, load: Loader | None = None
    ) -> None:
        super().__init__(worker, settings.pool, load=load)
        self._coop, self._moderator = settings, moderator or Moderator()
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

    async def draw(self, release: Release, job: Job) -> GeneratedImages:
        """One request from text to image files.

        Raises:
            RequestError: a partner that is not declared, too many of them at once, or an image that does not fit.
        """
        return await self._drawn(release, job, None)

    async def draw_watched(self, release: Release, job: Job) -> AsyncIterator[PartialImage | GeneratedImages]:
        """As `draw`, with partial images on the way."""
        loop = asyncio.get_running_loop()

        async def produce(put: Callable[[PartialImage | GeneratedImages], None]) -> None:
            def show(partial: PartialImage) -> None:
                # Called in the drawing thread; messages are relayed on the event loop.
                loop.call_soon_threadsafe(put, partial)

            put(await self._drawn(release, job, show))

        async with aclosing(relayed(produce)) as messages:
            async for message in messages:
                yield message

    async def _drawn(self, release: Release, job: Job, show: Show | None) -> GeneratedImages:
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
            return await self._run(
                lambda stop: cooperate(
                    pipeline, [held[name] for name in names], declared, release, job, self._moderator, stop, show
                )
            )

    async def _run(self, work: Callable[[Callable[[], None]], GeneratedImages]) -> GeneratedImages:
        gone = threading.Event()

        def stop_if_gone() -> None:
            if gone.is_set():
                raise Cancelled

        try:
            return await self._worker.run(lambda: work(stop_if_gone))
        except asyncio.CancelledError:
            gone.set()
            raise


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


def cooperate(
    pipeline: "PanGuDrawPipeline",
    partners: list[Any],
    declared: list[PartnerSettings],
    release: Release,
    job: Job,
    moderator: Moderator,
    stop: Callable[[], None],
    show: Show | None = None,
) -> GeneratedImages:
    """The cooperation itself, in the drawing thread.

    stop: raises once nobody waits for the result. show: takes partial images; None makes none.
    """
    from pangu.pipelines.coop import CoopPipeline

    clock = time.perf_counter()
    job = resolved(pipeline, pipeline.scheduler, job)
    job = replace(job, unread=unread_in(pipeline, job), unknown=unknown_in(pipeline, job))
    assert job.width_height is not None and job.steps is not None and job.guidance_scale is not None
    (width, height), steps = job.width_height, job.steps
    role_steps = steps_of_halves(pipeline.scheduler, steps, pipeline.boundary)

    when = preview_steps(steps, job.partial_images) if show is not None else []

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        stop()
        if show is not None and step + 1 in when:
            with suppress(NotFinite):
                seen = decoded(pipeline, tensors["clean_latents"])
                files = files_of(seen, job, {}, moderator)[0]
                show(PartialImage(when.index(step + 1), files, job.unread, job.unknown))
        return {}

    try:
        coop = CoopPipeline(pipeline, members(job, partners, declared))
        coop.set_progress_bar_config(disable=True)
        pixels = coop(
            job.prompt,
            negative_prompt=job.negative_prompt,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=job.guidance_scale,
            num_images_per_prompt=job.images,
            generator=generators_of(job),
            extra={"styles": dict(job.styles)} if job.styles else None,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=("clean_latents",),
            output_type="pt",
        ).images
        images = finite_images(pixels, pipeline.image_processor)
    except (RequestError, NotFinite):
        raise
    except UserError as error:
        raise RequestError(f"Invalid value for 'coop': {error}", "coop") from error
    drawn_s, scheduler = time.perf_counter() - clock, type(pipeline.scheduler).__name__
    facts = facts_of(release, job, scheduler, role_steps)
    files, looking = files_of(images, job, facts, moderator)
    seconds = {"coop": drawn_s, **looking}
    return GeneratedImages(
        release,
        files,
        (width, height),
        scheduler,
        request_of(job),
        role_steps,
        seconds,
        partners=job.coop.partners if job.coop else (),
        unread=job.unread,
        unknown=job.unknown,
    )


def members(job: Job, partners: list[Any], declared: list[PartnerSettings]) -> list[Any]:
    """The partners as `CoopPipeline` takes them.

    Raises:
        RequestError: a control image is missing, not wanted, or no PNG.
    """
    from pangu.pipelines.coop import Partner

    asked = job.coop
    assert asked is not None
    if asked.shared_image and not any(own.takes_image for own in declared):
        raise refusal("control_image", "none of the partners takes one")
    result = []
    for place, (name, model, own) in enumerate(zip(asked.partners, partners, declared, strict=True)):
        file = None if asked.shared_image and not own.takes_image else asked.images[place]
        if own.takes_image != (file is not None):
            wants = "needs a control image" if own.takes_image else "takes no control image"
            raise refusal("control_image", f"partner '{name}' {wants}")
        image = None if file is None else read_image(file, "coop.control_image", ("PNG",))
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
