"""A request from its admission to its answer: given one release, drawn by the pools, drawn again where a replica died.

Knows neither HTTP nor Ray: pools are reached through links.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pangu.errors import NotFinite, UserError
from pangu.serve import error_answers
from pangu.serve.error_answers import ApiError, PoolBusy, PoolUnavailable, WorkCancelled
from pangu.serve.inference.messages import (
    GeneratedImages,
    Job,
    PartialImage,
    Release,
    ReleaseRouting,
    RequestError,
    Unknown,
    Unread,
)
from pangu.serve.inference.pool_handles import Link
from pangu.serve.inference.pool_path import PoolPath
from pangu.serve.inference.prompt_enhancer import NotEnhanced, PromptEnhancer
from pangu.serve.inference.prompt_filter import DenyList
from pangu.serve.inference.relay import relayed
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from pangu.serve.prometheus import Metrics

LOOK_S = 0.05
"""Between two looks whether anybody waits, of who may only draw when nobody does."""
RETRY_PAUSES_S = (0.1, 1.0, 3.0)
"""Until a replica that died is replaced, or another one is chosen."""
WARMING = Job(prompt="a red circle", seed=0, steps=2)
logger = logging.getLogger(__name__)


class RequestEngine:
    """Draws with the pools behind `links`. path: how requests go through them."""

    def __init__(
        self,
        links: Mapping[str, Link],
        settings: ServeSettings,
        metrics: "Metrics",
        path: type[PoolPath] = PoolPath,
    ) -> None:
        self._path, self._settings, self._metrics = path(links), settings, metrics
        self._denied = DenyList(settings.denied_words)
        self._enhancer = PromptEnhancer(settings.enhance)
        self._in_flight = 0
        self.routing: ReleaseRouting | None = None
        self.warmed: set[str] = set()

    async def draw(self, job: Job, channel: str | None = None) -> GeneratedImages:
        """One request from text to image files, within the deadline.

        Raises:
            ApiError: 400 not drawable or not to be shown, 429 too many requests, 503 a pool is not available, 504 deadline.
        """
        with self._admitted():
            return await self._answered(job, channel)

    async def draw_behind(self, job: Job) -> GeneratedImages:
        """As `draw`, but begun only while no request is in flight, and in nobody's place."""
        while self._in_flight:
            await asyncio.sleep(LOOK_S)
        return await self._answered(job, None)

    async def _answered(self, job: Job, channel: str | None) -> GeneratedImages:
        clock = time.perf_counter()
        release = self._release(job, channel)
        with self._explained():
            async with asyncio.timeout(self._settings.timeout_s):
                worded, notes = await self._worded(job)
                pictures = self._shown(await self._drawn_at_last(release, worded))
        return _timed(_noted(pictures, worded, notes), clock)

    async def watch(self, job: Job, channel: str | None = None) -> AsyncIterator[PartialImage | GeneratedImages]:
        """As `draw`, with partial images on the way; the last message is the result."""

        async def produce(put: Callable[[PartialImage | GeneratedImages], None]) -> None:
            with self._admitted():
                clock = time.perf_counter()
                release = self._release(job, channel)
                with self._explained():
                    async with asyncio.timeout(self._settings.timeout_s):
                        worded, notes = await self._worded(job)
                        async for message in self._watched_to_the_end(release, worded):
                            put(self._seen(message, worded, notes, clock))

        async with aclosing(relayed(produce)) as messages:
            async for message in messages:
                yield message

    async def read(self, job: Job, channel: str | None = None) -> tuple[tuple[Unread, ...], tuple[Unknown, ...]]:
        """What of the texts of a request the encoders would not read, and which words they do not know. Raises ApiError."""
        release = self._release(job, channel)
        with self._explained():
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._path.read(release, job)

    async def take(self, routing: ReleaseRouting) -> None:
        """Let new requests use the releases of a routing, which the pools hold."""
        self.routing = routing
        # Beside the requests: nobody is sent to a new release before it is warm, because `deploy` waits for that.
        self._warming = asyncio.create_task(self.warm(routing))

    async def warm(self, routing: ReleaseRouting, since: float | None = None) -> None:
        """One small image with every release of `routing` that is new here: the first request should not be the slow one.

        since: when the routing was declared, by `time.perf_counter`; None means now.
        """
        clock = time.perf_counter() if since is None else since
        for release in routing.releases:
            if release.sha256 not in self.warmed:
                try:
                    await self.first_image(release)
                    self.warmed.add(release.sha256)
                    seconds = time.perf_counter() - clock
                    self._metrics.drew_first(release.pair_version, seconds)
                    logger.info("version %s drew its first image after %.1f s", release.pair_version, seconds)
                except UserError as error:
                    logger.error("version %s could not draw its first image: %s", release.pair_version, error)
                except Exception:
                    logger.exception("version %s could not draw its first image", release.pair_version)
        self.warmed &= {release.sha256 for release in routing.releases}

    async def first_image(self, release: Release) -> None:
        """Raises whatever keeps the release from drawing."""
        try:
            await self._path.draw(release, WARMING)
        except NotFinite:
            raise
        except UserError:
            # Too few steps for this release, whose halves each need one.
            await self._path.draw(release, replace(WARMING, steps=None))

    async def holdings(self) -> dict[str, list[str]]:
        """Name of each pool -> content hashes of the releases it draws with at once. Never raises."""
        return await self._path.holdings()

    @property
    def partners(self) -> list[str]:
        """Names that a request's `coop.partners` may hold."""
        return list(self._settings.coop.partners)

    @property
    def loras(self) -> list[str]:
        """Names that a request's `loras` may hold."""
        return list(self._settings.loras)

    async def _worded(self, job: Job) -> tuple[Job, tuple[str, ...]]:
        """The request as the declared chat model words it, if it asks for that; as it is, with the reason, if that fails."""
        if not job.enhance:
            return job, ()
        plain = replace(job, enhance=False)
        try:
            revised = replace(plain, prompt=await self._enhancer.revised(job.prompt), original_prompt=job.prompt)
            if self._denied.first_in(revised) is not None:
                raise NotEnhanced("the endpoint answered with a word that is refused here")
        except NotEnhanced as error:
            return plain, (f"enhance had no effect: {error}.",)
        return revised, ()

    def _seen(
        self, message: PartialImage | GeneratedImages, job: Job, notes: tuple[str, ...], clock: float
    ) -> PartialImage | GeneratedImages:
        if isinstance(message, GeneratedImages):
            return _timed(_noted(self._shown(message), job, notes), clock)
        if hidden := message.files.count(None):
            self._metrics.withheld(hidden, "partial")
        return message

    def _shown(self, pictures: GeneratedImages) -> GeneratedImages:
        """Raises ApiError if not one of the images may be shown."""
        if hidden := pictures.files.count(None):
            self._metrics.withheld(hidden, "result")
            if hidden == len(pictures.files):
                raise error_answers.withheld()
        return pictures

    def _release(self, job: Job, channel: str | None) -> Release:
        if self._denied.first_in(job) is not None:
            raise error_answers.denied()
        if self.routing is None:
            raise error_answers.unavailable(self._settings.retry_after_s)
        try:
            return self.routing.choose(channel, f"{job.seed} {job.prompt}")
        except RequestError as error:
            raise error_answers.invalid(str(error), error.param) from None

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_flight >= self._settings.max_in_flight:
            raise error_answers.busy(self._settings.retry_after_s)
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a failure in a pool means for the client. Its details are in the log of that pool."""
        try:
            yield
        except ApiError:
            raise
        except TimeoutError:
            raise error_answers.too_late(self._settings.timeout_s) from None
        except NotFinite as error:
            raise error_answers.not_finite() from error
        except UserError as error:
            raise error_answers.invalid(str(error), getattr(error, "param", None)) from error
        except WorkCancelled:
            raise error_answers.client_left() from None
        except PoolBusy:
            raise error_answers.busy(self._settings.retry_after_s) from None
        except PoolUnavailable:
            raise error_answers.unavailable(self._settings.retry_after_s) from None
        except Exception as error:
            raise error_answers.internal() from error

    async def _drawn_at_last(self, release: Release, job: Job) -> GeneratedImages:
        """As `PoolPath.draw`; a request whose replica died is drawn again, which gives the same picture."""
        for attempt, pause_s in enumerate(RETRY_PAUSES_S):
            try:
                return await self._path.draw(release, job)
            except PoolUnavailable:
                self._metrics.retried.inc(attempt == 0)
                await asyncio.sleep(pause_s)
        return await self._path.draw(release, job)

    async def _watched_to_the_end(self, release: Release, job: Job) -> AsyncIterator[PartialImage | GeneratedImages]:
        """As `PoolPath.watch`; a request whose replica died begins again, and shows no partial image twice."""
        shown = -1
        for attempt, pause_s in enumerate((*RETRY_PAUSES_S, None)):
            try:
                async with aclosing(self._path.watch(release, job)) as messages:
                    async for message in messages:
                        if isinstance(message, GeneratedImages) or (message.files and message.index > shown):
                            yield message
                        shown = shown if isinstance(message, GeneratedImages) else max(shown, message.index)
                return
            except PoolUnavailable:
                if pause_s is None:
                    raise
                self._metrics.retried.inc(attempt == 0)
                await asyncio.sleep(pause_s)


def _noted(pictures: GeneratedImages, job: Job, notes: tuple[str, ...]) -> GeneratedImages:
    revised = None if job.original_prompt is None else job.prompt
    return replace(pictures, revised_prompt=revised, notes=notes)


def _timed(pictures: GeneratedImages, clock: float) -> GeneratedImages:
    return replace(pictures, seconds=dict(pictures.seconds) | {"total": time.perf_counter() - clock})
