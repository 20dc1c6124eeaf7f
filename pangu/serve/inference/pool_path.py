"""How a request goes from pool to pool: experts in turn and the decoder, or the coop pool, or one replica that holds the pair."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from pangu.serve.inference.messages import (
    GeneratedImages,
    Job,
    PartialImage,
    PoolResult,
    Preview,
    Release,
    RequestError,
    Unknown,
    Unread,
)
from pangu.serve.inference.pool_handles import Link

POLL_TIMEOUT_S = 5.0


class PoolPath:
    """Each half in a pool of its own, wherever the links lead."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = self._asked = links

    async def draw(self, release: Release, job: Job) -> GeneratedImages:
        """One request from text to image files. Raises whatever a pool raises, PoolBusy or PoolUnavailable."""
        calls: list[Any] = []

        def call(pool: str, method: str, *arguments: Any) -> Any:
            calls.append(self._link(pool).call(method, *arguments))
            return calls[-1]

        # Passed on unread, so a trajectory goes from pool to pool by reference.
        if job.coop is not None:
            finished = call("coop", "draw", release, job) if "coop" in self._links else _no_partners()
        else:
            if job.source is not None:
                finished = call("structure", "resume", release, job, call("decoder", "receive", release, job))
            else:
                finished = call("structure", "begin", release, job)
            for expert in (*release.between, "texture"):
                finished = call(expert, "finish", finished)
        last = call("decoder", "develop", finished)
        try:
            result: GeneratedImages = await last
        except asyncio.CancelledError:
            for each in calls:
                each.cancel()
            raise
        return result

    async def watch(self, release: Release, job: Job) -> AsyncGenerator[PartialImage | GeneratedImages]:
        """As `draw`, with partial images on the way; the last message is the result."""
        if job.partial_images == 0 or (job.coop is not None and "coop" not in self._links):
            yield await self.draw(release, job)
            return
        decoder, pool_result = self._links["decoder"], None
        given: tuple[Any, ...] = release, job
        below: list[tuple[str, str]] = [(expert, "finish_watched") for expert in (*release.between, "texture")]
        stages: list[tuple[str, str]]
        if job.source is not None:
            given = release, job, await decoder.call("receive", release, job)
            stages = [("structure", "resume_watched"), *below]
        elif job.coop is not None:
            stages = [("coop", "draw_watched")]
        else:
            stages = [("structure", "begin_watched"), *below]
        # A release that is let go of meanwhile takes the pools of its experts along.
        for link, method in [(self._link(pool), method) for pool, method in stages]:
            given = given if pool_result is None else (pool_result,)
            async for message in link.stream(method, *given):
                if isinstance(message, Preview):
                    yield await decoder.call("preview", message)
                else:
                    pool_result = message
        assert isinstance(pool_result, PoolResult), "a run ends with its result"
        yield await decoder.call("develop", pool_result)

    def _link(self, pool: str) -> Link:
        """Raises RuntimeError for an expert that was declared with no pool."""
        if pool not in self._links:
            raise RuntimeError(f"This application has no pool for the expert {pool}; name it in its experts_between.")
        return self._links[pool]

    async def read(self, release: Release, job: Job) -> tuple[tuple[Unread, ...], tuple[Unknown, ...]]:
        """What of the texts of a request the encoders would not read, and which words they do not know."""
        unread, unknown = await self._links["structure"].call("read", release, job)
        return unread, unknown

    async def holdings(self) -> dict[str, list[str]]:
        """Name of each pool -> content hashes of the releases it draws with at once. Never raises."""
        asked = dict(self._asked)
        answers = await asyncio.gather(*map(_held, asked.values()))
        return dict(zip(asked, answers, strict=True))


class PairPath(PoolPath):
    """One replica holds text encoders, halves and decoder, and is asked once for a picture, so no latents leave it.

    Cooperations still begin in the coop pool, if there is one.
    """

    def __init__(self, links: Mapping[str, Link]) -> None:
        super().__init__(links)
        self._links = {**links, "structure": links["pair"], "decoder": links["pair"]}

    async def draw(self, release: Release, job: Job) -> GeneratedImages:
        """As `PoolPath.draw`."""
        if job.coop is not None:
            return await super().draw(release, job)
        call = self._links["pair"].call("draw", release, job)
        try:
            pictures: GeneratedImages = await call
        except asyncio.CancelledError:
            call.cancel()
            raise
        return pictures

    async def watch(self, release: Release, job: Job) -> AsyncGenerator[PartialImage | GeneratedImages]:
        """As `PoolPath.watch`."""
        if job.coop is not None or job.partial_images == 0:
            messages: Any = super().watch(release, job)
        else:
            messages = self._links["pair"].stream("watch", release, job)
        async with aclosing(messages) as coming:
            async for message in coming:
                yield message


def _no_partners() -> Any:
    raise RequestError("Invalid value for 'coop': this server declares no partners.", "coop")


async def _held(link: Link) -> list[str]:
    async def ask() -> Any:
        return await link.call("holds")

    with suppress(Exception):
        return list(await asyncio.wait_for(ask(), POLL_TIMEOUT_S))
    return []
