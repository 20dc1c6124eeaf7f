"""All pools in one process: both halves of the pair on one device. No Ray."""

import time
from typing import TYPE_CHECKING, Any

from pangu.models.devices import best_device
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.cooperation_pool import CoopPool
from pangu.serve.inference.decoder import DecoderPool
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.pool import Loader
from pangu.serve.inference.pool_handles import LocalLink
from pangu.serve.inference.structure import StructurePool
from pangu.serve.inference.texture import TexturePool
from pangu.serve.inference.turns import Turns
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from pangu.models.captured import Record
    from pangu.serve.prometheus import Metrics


def pools_of_pair(settings: ServeSettings, worker: Worker, **way: Any) -> dict[str, Any]:
    """The pools that share a pair in one process. way: what else a `Pool` takes."""
    loras: dict[str, Any] = {"loras": settings.loras, "loras_held": settings.loras_held}
    moderator = Moderator(settings.moderation)
    halves = way | loras | {"turns": _turns() if settings.offload_idle else None}
    return {
        "structure": StructurePool(worker, settings.structure, cache_bytes=settings.cache_bytes, **halves),
        "texture": TexturePool(worker, settings.texture, **halves),
        "decoder": DecoderPool(worker, settings.decoder, moderator, decoded_pixels=settings.decoded_pixels, **way),
    }


class LocalEngine(RequestEngine):
    """An engine with its own pools.

    load: makes a part of a release; None loads what was registered. record: the way to capture, where it is not that of CUDA.
    """

    def __init__(
        self,
        settings: ServeSettings,
        metrics: "Metrics",
        load: Loader | None = None,
        record: "Record | None" = None,
    ) -> None:
        self.worker = Worker(settings.structure.threads)
        way: dict[str, Any] = {"load": load, "record": record}
        self.pools = pools_of_pair(settings, self.worker, **way)
        if settings.coop.partners:
            self.pools["coop"] = CoopPool(self.worker, settings.coop, cache_bytes=settings.cache_bytes, **way)
        super().__init__({name: LocalLink(pool) for name, pool in self.pools.items()}, settings, metrics)

    async def take(self, routing: ReleaseRouting) -> None:
        """Load every release of the routing, then let new requests use it."""
        clock = time.perf_counter()
        for pool in self.pools.values():
            await pool.take(routing)
        await self.warm(routing, clock)
        self.routing = routing

    def close(self) -> None:
        """End the drawing thread."""
        self.worker.close()


def _turns() -> Turns:
    from pangu.models.residence import Residence

    return Turns(Residence(best_device()))
