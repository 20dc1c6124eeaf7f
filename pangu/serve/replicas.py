"""The pools as Ray Serve deployments: their constructors, their `user_config`, and nothing of what they draw."""

from typing import Any

from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.cooperation_pool import CoopPool
from pangu.serve.inference.decoder import DecoderPool
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.pool import Pool
from pangu.serve.inference.structure import StructurePool
from pangu.serve.inference.texture import TexturePool
from pangu.serve.listening import listen_on_node_address
from pangu.serve.settings import CoopSettings, LoraSettings, ModerationSettings, PoolSettings


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


class DecoderReplica(_Replica, DecoderPool):
    def __init__(self, pool: dict[str, Any], moderation: dict[str, Any], decoded_pixels: int) -> None:
        settings = PoolSettings.model_validate(pool)
        moderator = Moderator(ModerationSettings.model_validate(moderation))
        super().__init__(_worker(settings), settings, moderator, crosses=True, decoded_pixels=decoded_pixels)


class CoopReplica(_Replica, CoopPool):
    def __init__(self, coop: dict[str, Any], cache_bytes: int) -> None:
        settings = CoopSettings.model_validate(coop)
        super().__init__(_worker(settings.pool), settings, crosses=True, cache_bytes=cache_bytes)


REPLICAS: dict[str, type[Pool]] = {
    "structure": StructureReplica,
    "texture": TextureReplica,
    "decoder": DecoderReplica,
    "coop": CoopReplica,
}


def _loras(declared: dict[str, Any]) -> dict[str, LoraSettings]:
    return {name: LoraSettings.model_validate(own) for name, own in declared.items()}


def _worker(settings: PoolSettings) -> Worker:
    listen_on_node_address()
    return Worker(settings.threads)
