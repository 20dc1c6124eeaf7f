"""Which pool draws on a device that holds the generators of one pool at a time."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pangu.models.residence import Residence


class Turns:
    """One turn after the other, in the order in which they were asked for.

    A generator that comes and goes with every step would cost more than the step, so a pool has the device until the requests
    that it began with are through its part of their steps.
    """

    def __init__(self, place: "Residence") -> None:
        self.place = place
        self._lock, self._waiting = asyncio.Lock(), 0

    @property
    def is_awaited(self) -> bool:
        """Whether another pool waits: who comes now waits for the turn behind that."""
        return self._waiting > 0

    async def __aenter__(self) -> None:
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
