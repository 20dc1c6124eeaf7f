"""The pools of a server in this process, with neither HTTP nor Ray."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pangu
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import GeneratedImages, Job, Release, ReleaseRouting
from pangu.serve.settings import ServeSettings

ASSETS = Path(pangu.__file__).parent / "assets"
CROWD = 64


class Uncounted:
    """Metrics that nobody reads: whatever is counted is forgotten."""

    def __getattr__(self, name: str) -> "Uncounted":
        return self

    def __call__(self, *given: Any, **named: Any) -> "Uncounted":
        return self


class Pools:
    """Draws with the pools of one pair, whose pipeline they share."""

    def __init__(self, studio: LocalEngine) -> None:
        self._studio = studio

    def draw(self, jobs: Sequence[Job]) -> list[GeneratedImages]:
        """All at once, as a crowd would ask for them."""

        async def together() -> list[GeneratedImages]:
            return await asyncio.gather(*(self._studio.draw(job) for job in jobs))

        return asyncio.run(together())


@contextmanager
def serving(pair: Any, **settings: Any) -> Iterator[Pools]:
    """As served by default, but that nothing is drawn from a cache. The pair moves to the device in the pools' precision."""
    asks = ServeSettings.model_validate({"cache_bytes": 0, "max_in_flight": CROWD, "timeout_s": 600, **settings})
    studio = LocalEngine(asks, Uncounted(), load=lambda release, part: pair)  # type: ignore[arg-type]
    versions = dict.fromkeys(("pair_version", "structure_version", "texture_version", "created"), 0)
    # From the text encoder of that folder pools learn how wide pooled text is; all of these pairs have that one.
    release = Release(folder=ASSETS, sha256="in memory", **versions)
    try:
        asyncio.run(studio.take(ReleaseRouting(champion=release)))
        yield Pools(studio)
    finally:
        studio.close()
