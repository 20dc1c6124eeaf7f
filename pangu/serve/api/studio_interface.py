"""What the API asks of whatever draws."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from pangu.serve.drawing.messages import Job, Lineup, Partial, Pictures


class Drawing(Protocol):
    """Whatever draws the images."""

    lineup: Lineup | None
    warmed: set[str]

    async def draw(self, job: Job, channel: str | None = None) -> Pictures:
        """Raises ApiError."""
        ...

    def watch(self, job: Job, channel: str | None = None) -> AsyncIterator[Partial | Pictures]:
        """Raises ApiError."""
        ...

    async def holdings(self) -> Mapping[str, list[str]]:
        """Name of each pool -> content hashes of the releases it draws with at once. Never raises."""
        ...

    @property
    def partners(self) -> list[str]: ...
