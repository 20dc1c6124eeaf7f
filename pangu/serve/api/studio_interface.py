"""What the API asks of whatever draws."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage, ReleaseRouting, Unknown, Unread


class Drawing(Protocol):
    """Whatever draws the images."""

    routing: ReleaseRouting | None
    warmed: set[str]

    async def draw(self, job: Job, channel: str | None = None) -> GeneratedImages:
        """Raises ApiError."""
        ...

    async def draw_behind(self, job: Job) -> GeneratedImages:
        """Raises ApiError."""
        ...

    def watch(self, job: Job, channel: str | None = None) -> AsyncIterator[PartialImage | GeneratedImages]:
        """Raises ApiError."""
        ...

    async def read(self, job: Job, channel: str | None = None) -> tuple[tuple[Unread, ...], tuple[Unknown, ...]]:
        """Raises ApiError."""
        ...

    async def holdings(self) -> Mapping[str, list[str]]:
        """Name of each pool -> content hashes of the releases it draws with at once. Never raises."""
        ...

    @property
    def partners(self) -> list[str]: ...

    @property
    def loras(self) -> list[str]: ...
