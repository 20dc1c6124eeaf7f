"""The pools as Ray Serve deployments: their constructors, their `user_config`, and nothing of what they draw."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from pangu.config import Role
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.cooperation_pool import CoopPool
from pangu.serve.inference.decoder import DecoderPool
from pangu.serve.inference.messages import (
    GeneratedImages,
    Job,
    PartialImage,
    PoolResult,
    Preview,
    Release,
    ReleaseRouting,
    Unknown,
    Unread,
)
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.pair_pools import PairPools
from pangu.serve.inference.pool_path import PoolPath
from pangu.serve.inference.structure import StructurePool
from pangu.serve.inference.texture import TexturePool
from pangu.serve.listening import listen_on_node_address
from pangu.serve.settings import CoopSettings, LoraSettings, ModerationSettings, PoolSettings, ServeSettings


class _Replica:
    """What Ray Serve asks of every pool."""

    async def reconfigure(self: Any, user_config: dict[str, Any]) -> None:
        """Serve calls this with every new `user_config`, before it sends requests."""
        await self.take(ReleaseRouting.model_validate(user_config))


class StructureReplica(_Replica, StructurePool):
    def __init__(self, pool: dict[str, Any], loras: dict[str, Any], loras_held: int, cache_bytes: int) -> None:
        settings = PoolSettings.model_validate(pool)
        adapters: dict[str, Any] = {"loras": _loras(loras), "loras_held": loras_held}
        super().__init__(_worker(settings), settings, crosses=True, cache_bytes=cache_bytes, **adapters)


class TextureReplica(_Replica, TexturePool):
    def __init__(self, pool: dict[str, Any], loras: dict[str, Any], loras_held: int) -> None:
        settings = PoolSettings.model_validate(pool)
        super().__init__(_worker(settings), settings, crosses=True, loras=_loras(loras), loras_held=loras_held)


class MiddleReplica(_Replica, TexturePool):
    """Of one expert between structure and texture."""

    def __init__(self, pool: dict[str, Any], loras: dict[str, Any], loras_held: int, part: Role) -> None:
        settings = PoolSettings.model_validate(pool)
        adapters: dict[str, Any] = {"loras": _loras(loras), "loras_held": loras_held}
        super().__init__(_worker(settings), settings, crosses=True, part=part, **adapters)


class DecoderReplica(_Replica, DecoderPool):
    def __init__(self, pool: dict[str, Any], moderation: dict[str, Any], decoded_pixels: int) -> None:
        settings = PoolSettings.model_validate(pool)
        moderator = Moderator(ModerationSettings.model_validate(moderation))
        super().__init__(_worker(settings), settings, moderator, crosses=True, decoded_pixels=decoded_pixels)


class CoopReplica(_Replica, CoopPool):
    def __init__(self, coop: dict[str, Any], cache_bytes: int) -> None:
        settings = CoopSettings.model_validate(coop)
        super().__init__(_worker(settings.pool), settings, crosses=True, cache_bytes=cache_bytes)


class PairReplica(_Replica):
    """All pools of a pair in one process, and the way of a request through them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        chosen = ServeSettings.model_validate(settings)
        # The decoder also takes what comes from the coop pool.
        self._pools = PairPools(chosen, _worker(chosen.structure))
        self._path = PoolPath(self._pools.links)

    async def take(self, routing: ReleaseRouting) -> None:
        """As `PairPools.take`."""
        await self._pools.take(routing)

    async def draw(self, release: Release, job: Job) -> GeneratedImages:
        """As `PoolPath.draw`."""
        return await self._path.draw(release, job)

    async def watch(self, release: Release, job: Job) -> AsyncIterator[PartialImage | GeneratedImages]:
        """As `PoolPath.watch`."""
        async with aclosing(self._path.watch(release, job)) as messages:
            async for message in messages:
                yield message

    async def read(self, release: Release, job: Job) -> tuple[tuple[Unread, ...], tuple[Unknown, ...]]:
        """As `StructurePool.read`."""
        return await self._path.read(release, job)

    async def develop(self, pool_result: PoolResult) -> GeneratedImages:
        """As `DecoderPool.develop`, of what the coop pool drew."""
        pictures: GeneratedImages = await self._pools.pools["decoder"].develop(pool_result)
        return pictures

    async def preview(self, preview: Preview) -> PartialImage:
        """As `DecoderPool.preview`, of what the coop pool draws."""
        partial: PartialImage = await self._pools.pools["decoder"].preview(preview)
        return partial

    async def holds(self) -> list[str]:
        """Content hashes of the releases that all pools draw with at once."""
        held = await self._path.holdings()
        return sorted(set.intersection(*(set(releases) for releases in held.values())))


REPLICAS: dict[str, type[Any]] = {
    "pair": PairReplica,
    "structure": StructureReplica,
    "middle": MiddleReplica,
    "texture": TextureReplica,
    "decoder": DecoderReplica,
    "coop": CoopReplica,
}


def _loras(declared: dict[str, Any]) -> dict[str, LoraSettings]:
    return {name: LoraSettings.model_validate(own) for name, own in declared.items()}


def _worker(settings: PoolSettings) -> Worker:
    listen_on_node_address()
    return Worker(settings.threads)
