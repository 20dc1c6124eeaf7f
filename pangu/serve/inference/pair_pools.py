"""The pools that share a pair in one process, one for each expert that the releases at hand have, and the decoder's."""

from typing import Any

from pangu.config import MIDDLE_ROLES, Role
from pangu.models.devices import best_device
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.decoder import DecoderPool
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.pool_handles import LocalLink
from pangu.serve.inference.structure import StructurePool
from pangu.serve.inference.texture import TexturePool
from pangu.serve.inference.turns import Turns
from pangu.serve.settings import ServeSettings


class PairPools:
    """pools: by the name of their part. links: to them. way: what else a `Pool` takes.

    Pools of experts between structure and texture come and go with the releases that have such.
    """

    def __init__(self, settings: ServeSettings, worker: Worker, **way: Any) -> None:
        loras: dict[str, Any] = {"loras": settings.loras, "loras_held": settings.loras_held}
        self._settings, self._worker = settings, worker
        self._halves = way | loras | {"turns": _turns() if settings.offload_idle else None}
        decoder = DecoderPool(
            worker, settings.decoder, Moderator(settings.moderation), decoded_pixels=settings.decoded_pixels, **way
        )
        self.pools: dict[str, Any] = {
            "structure": StructurePool(worker, settings.structure, cache_bytes=settings.cache_bytes, **self._halves),
            "texture": TexturePool(worker, settings.texture, **self._halves),
            "decoder": decoder,
        }
        self.links = {name: LocalLink(pool) for name, pool in self.pools.items()}

    async def take(self, routing: ReleaseRouting) -> None:
        """Load every release of the routing, in a pool for each of its experts, then let go of the others."""
        for role in routing.between:
            if role not in self.pools:
                self._add(role)
        for pool in list(self.pools.values()):
            await pool.take(routing)
        for role in MIDDLE_ROLES:
            if role in self.pools and role not in routing.between:
                # Requests that it still draws for keep it until they are done.
                del self.pools[role], self.links[role]

    def _add(self, role: Role) -> None:
        pool = TexturePool(self._worker, self._settings.middle, part=role, **self._halves)
        self.pools[role], self.links[role] = pool, LocalLink(pool)


def _turns() -> Turns:
    from pangu.models.residence import Residence

    return Turns(Residence(best_device()))
