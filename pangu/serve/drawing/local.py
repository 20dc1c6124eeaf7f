"""All pools in one process: both halves of the pair take turns on one thread and one device. No Ray."""

import time
from typing import TYPE_CHECKING, Any

from pangu.serve.drawing.coop import CoopPool
from pangu.serve.drawing.decoder import DecoderPool
from pangu.serve.drawing.links import LocalLink
from pangu.serve.drawing.messages import Lineup
from pangu.serve.drawing.moderation import Moderator
from pangu.serve.drawing.pool import Loader
from pangu.serve.drawing.structure import StructurePool
from pangu.serve.drawing.studio import Studio
from pangu.serve.drawing.texture import TexturePool
from pangu.serve.drawing.worker import Worker
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from pangu.models.captured import Record
    from pangu.serve.metrics import Metrics


class LocalStudio(Studio):
    """A studio with its own pools.

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
        moderator = Moderator(settings.moderation)
        way: dict[str, Any] = {"load": load, "record": record}
        self.pools: dict[str, Any] = {
            "structure": StructurePool(self.worker, settings.structure, cache_bytes=settings.cache_bytes, **way),
            "texture": TexturePool(self.worker, settings.texture, **way),
            "decoder": DecoderPool(
                self.worker, settings.decoder, moderator, decoded_pixels=settings.decoded_pixels, **way
            ),
        }
        if settings.coop.partners:
            self.pools["coop"] = CoopPool(self.worker, settings.coop, moderator, load=load)
        super().__init__({name: LocalLink(pool) for name, pool in self.pools.items()}, settings, metrics)

    async def take(self, lineup: Lineup) -> None:
        """Load every release of the lineup, then let new requests use it."""
        clock = time.perf_counter()
        for pool in self.pools.values():
            await pool.take(lineup)
        await self.warm(lineup, clock)
        self.lineup = lineup

    def close(self) -> None:
        """End the drawing thread."""
        self.worker.close()
