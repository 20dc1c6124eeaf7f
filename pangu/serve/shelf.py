"""The releases that one pool replica holds: few, and never one dropped while a request still needs it.

Knows nothing of models or Ray: a loader function makes whatever is held.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from pangu.serve.handoff import Release

Part = TypeVar("Part")


@dataclass
class _Held(Generic[Part]):
    part: "asyncio.Task[Part]"
    users: int = 0


class Shelf(Generic[Part]):
    """At most `room` releases; the least recently used idle one makes way for the next.

    Two are enough for a swap: requests of the old release finish on it while the new one already answers.
    """

    def __init__(self, load: Callable[[Release], Part], room: int = 2) -> None:
        self._load = load
        self._room = room
        self._held: OrderedDict[str, _Held[Part]] = OrderedDict()
        self._freed = asyncio.Event()

    @property
    def hashes(self) -> list[str]:
        """Content hashes of the releases at hand, least recently used first."""
        return list(self._held)

    @asynccontextmanager
    async def hold(self, release: Release) -> AsyncIterator[Part]:
        """The part of `release`, loaded if need be, and kept at least until the caller is done with it."""
        key = release.sha256
        while key not in self._held and not self._make_room():
            self._freed.clear()
            await self._freed.wait()
        if key not in self._held:
            # In a thread, because loading takes seconds and the old release goes on answering meanwhile.
            self._held[key] = _Held(asyncio.create_task(asyncio.to_thread(self._load, release)))
        held = self._held[key]
        self._held.move_to_end(key)
        held.users += 1
        try:
            # Shielded: others may wait for the same loading when this caller is cancelled.
            yield await asyncio.shield(held.part)
        finally:
            held.users -= 1
            if held.part.done() and (held.part.cancelled() or held.part.exception()) and self._held.get(key) is held:
                del self._held[key]
            self._freed.set()

    def _make_room(self) -> bool:
        """Whether there is room for one more, after dropping an idle release if need be."""
        idle = [key for key, held in self._held.items() if held.users == 0 and held.part.done()]
        if len(self._held) >= self._room and idle:
            del self._held[idle[0]]
        return len(self._held) < self._room
