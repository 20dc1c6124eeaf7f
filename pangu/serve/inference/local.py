"""All pools in one process: both halves of the pair on one device. No Ray."""

import time
from typing import TYPE_CHECKING, Any

from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.cooperation_pool import CoopPool
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.pair_pools import PairPools
from pangu.serve.inference.pool import Loader
from pangu.serve.inference.pool_handles import LocalLink
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from pangu.models.captured import Record
    from pangu.serve.prometheus import Metrics


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
        self._pair = PairPools(settings, self.worker, **way)
        self.pools = self._pair.pools
        if settings.coop.partners:
            self.pools["coop"] = CoopPool(self.worker, settings.coop, cache_bytes=settings.cache_bytes, **way)
            self._pair.links["coop"] = LocalLink(self.pools["coop"])
        super().__init__(self._pair.links, settings, metrics)

    async def take(self, routing: ReleaseRouting) -> None:
        """Load every release of the routing, then let new requests use it."""
        clock = time.perf_counter()
        await self._pair.take(routing)
        await self.warm(routing, clock)
        self.routing = routing

    def close(self) -> None:
        """End the drawing thread."""
        self.worker.close()
