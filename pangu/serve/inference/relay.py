"""A queue of messages written by one task and read from any other; the reader may be slow, or stop early."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

Message = TypeVar("Message")
END = object()


async def relayed(
    produce: Callable[[Callable[[Message], None]], Coroutine[Any, Any, None]],
) -> AsyncGenerator[Message, None]:
    """What `produce` hands to the function it is given; closing it cancels that, and its failure is raised at the end."""
    waiting: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(produce(waiting.put_nowait))
    task.add_done_callback(lambda _: waiting.put_nowait(END))
    try:
        while (message := await waiting.get()) is not END:
            yield message
        await task
    finally:
        task.cancel()
