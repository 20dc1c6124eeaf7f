"""The pools as Ray Serve deployments: their constructors, their `user_config`, and nothing of what they draw."""

from typing import Any

from pangu.serve.drawing.coop import CoopPool
from pangu.serve.drawing.decoder import DecoderPool
from pangu.serve.drawing.messages import Lineup
from pangu.serve.drawing.moderation import Moderator
from pangu.serve.drawing.pool import Pool
from pangu.serve.drawing.structure import StructurePool
from pangu.serve.drawing.texture import TexturePool
from pangu.serve.drawing.worker import Worker
from pangu.serve.listening import listen_on_node_address
from pangu.serve.settings import CoopSettings, ModerationSettings, PoolSettings


class _Replica:
    """What Ray Serve asks of every pool."""

    async def reconfigure(self: Any, user_config: dict[str, Any]) -> None:
        """Serve calls this with every new `user_config`, before it sends requests."""
        await self.take(Lineup.model_validate(user_config))


class StructureReplica(_Replica, StructurePool):
    def __init__(self, pool: dict[str, Any], cache_bytes: int) -> None:
        super().__init__(**_own(pool), crosses=True, cache_bytes=cache_bytes)


class TextureReplica(_Replica, TexturePool):
    def __init__(self, pool: dict[str, Any]) -> None:
        super().__init__(**_own(pool), crosses=True)


class DecoderReplica(_Replica, DecoderPool):
    def __init__(self, pool: dict[str, Any], moderation: dict[str, Any]) -> None:
        own = _own(pool)
        super().__init__(own["worker"], _moderator(moderation), crosses=True, precision=own["precision"])


class CoopReplica(_Replica, CoopPool):
    def __init__(self, coop: dict[str, Any], moderation: dict[str, Any]) -> None:
        settings = CoopSettings.model_validate(coop)
        super().__init__(_own(settings.pool.model_dump())["worker"], settings, _moderator(moderation))


REPLICAS: dict[str, type[Pool]] = {
    "structure": StructureReplica,
    "texture": TextureReplica,
    "decoder": DecoderReplica,
    "coop": CoopReplica,
}


def _own(pool: dict[str, Any]) -> dict[str, Any]:
    """What a pool is made with, of its own settings."""
    settings = PoolSettings.model_validate(pool)
    listen_on_node_address()
    return {"worker": Worker(settings.threads), "most_rows": settings.most_rows, "precision": settings.precision}


def _moderator(moderation: dict[str, Any]) -> Moderator:
    return Moderator(ModerationSettings.model_validate(moderation))
