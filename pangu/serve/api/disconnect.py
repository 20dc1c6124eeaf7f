"""Work that stops when the client leaves."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from pangu.serve.error_answers import client_left

Result = TypeVar("Result")


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """What `work` returns; it is cancelled when the client of `request`, whose body is read, closes the connection.

    Raises:
        ApiError: 499, which nobody reads but the metrics.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise client_left()
        return task.result()
    finally:
        left.cancel()
        task.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
