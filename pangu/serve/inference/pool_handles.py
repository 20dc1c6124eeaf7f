"""How the engine reaches a pool: in its own process here; through Ray in `pangu.serve.gateway`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol


class Link(Protocol):
    """One pool, wherever it is."""

    def call(self, method: str, *arguments: Any) -> Any:
        """An awaitable with `cancel()`, which may also be an argument of a further call, before it is awaited.

        Awaiting it raises what the pool raised, or PoolBusy, or PoolUnavailable.
        """
        ...

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        """What an async generator of the pool yields; closing it cancels the work."""
        ...


class LocalLink:
    """A pool of this process."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, method: str, *arguments: Any) -> "asyncio.Task[Any]":
        async def run() -> Any:
            given = [await each if isinstance(each, asyncio.Task) else each for each in arguments]
            return await getattr(self._pool, method)(*given)

        return asyncio.create_task(run())

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        source = getattr(self._pool, method)(*arguments)
        try:
            async for message in source:
                yield message
        finally:
            await source.aclose()
