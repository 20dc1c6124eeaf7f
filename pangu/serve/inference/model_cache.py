"""What one pool replica holds, by key: few models, and never one dropped while a request still needs it.

A loader function makes whatever is held.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Model = TypeVar("Model")
Source = TypeVar("Source")


@dataclass
class _Held(Generic[Model]):
    model: "asyncio.Task[Model]"
    users: int = 0


class ModelCache(Generic[Source, Model]):
    """At most `room` models; the least recently used idle one is dropped for the next, those that `retain` named last.

    Two are enough for a swap of releases: requests of the old one finish on it while the new one already answers.
    """

    def __init__(self, load: Callable[[Source], Model], key: Callable[[Source], str], room: int = 2) -> None:
        self._load, self._key, self._room = load, key, room
        self._held: OrderedDict[str, _Held[Model]] = OrderedDict()
        self._wanted: frozenset[str] | None = None
        self._freed = asyncio.Event()

    @property
    def keys(self) -> list[str]:
        """Of the models at hand, least recently used first."""
        return list(self._held)

    @property
    def ready(self) -> list[str]:
        """Keys of the models that are loaded."""
        return [key for key, held in self._held.items() if _is_loaded(held)]

    def retain(self, sources: Iterable[Source]) -> None:
        """Hold nothing but these from now on, as soon as everything else is idle; makes room for all of them."""
        self._wanted = frozenset(map(self._key, sources))
        self._room = max(self._room, len(self._wanted))
        self._drop_unwanted()

    @asynccontextmanager
    async def acquire(self, source: Source) -> AsyncIterator[Model]:
        """The model that `source` loads, loaded if need be, and kept at least until the caller is done with it."""
        key = self._key(source)
        while key not in self._held and not self._make_room():
            self._freed.clear()
            await self._freed.wait()
        if key not in self._held:
            # In a thread, because loading takes seconds and what is held goes on answering meanwhile.
            self._held[key] = _Held(asyncio.create_task(asyncio.to_thread(self._load, source)))
        held = self._held[key]
        self._held.move_to_end(key)
        held.users += 1
        try:
            # Shielded: others may wait for the same loading when this caller is cancelled.
            yield await asyncio.shield(held.model)
        finally:
            held.users -= 1
            if held.model.done() and not _is_loaded(held) and self._held.get(key) is held:
                del self._held[key]
            self._drop_unwanted()
            self._freed.set()

    def _make_room(self) -> bool:
        """Whether there is room for one more, after dropping an idle model if need be."""
        idle = [key for key, held in self._held.items() if held.users == 0 and held.model.done()]
        idle.sort(key=lambda key: self._wanted is not None and key in self._wanted)
        if len(self._held) >= self._room and idle:
            del self._held[idle[0]]
        return len(self._held) < self._room

    def _drop_unwanted(self) -> None:
        if self._wanted is None:
            return
        for key, held in list(self._held.items()):
            if key not in self._wanted and held.users == 0 and held.model.done():
                del self._held[key]


def _is_loaded(held: _Held[Model]) -> bool:
    return held.model.done() and not held.model.cancelled() and held.model.exception() is None
