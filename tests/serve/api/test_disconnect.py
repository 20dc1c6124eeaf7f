"""A client may leave at any moment: what it asked for ends, and no error of the server is counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import TaskCancelledError
from ray.serve.exceptions import RequestCancelledError

from pangu.serve.api import build_api
from pangu.serve.error_answers import WorkCancelled
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.messages import (
    GeneratedImages,
    Job,
    PartialImage,
    PoolResult,
    Preview,
    Release,
    ReleaseRouting,
)
from pangu.serve.inference.pool_handles import LocalLink
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests import subtests

RELEASE = Release(pair_version=1, structure_version=1, texture_version=1, sha256="0", created=0, folder=Path("x"))
TURNS = 3
"""Of the event loop that each part of the work takes."""


class Pools:
    """All pools of a pair, which draw nothing. `gone`: what waiting raises once the client left, as Ray does to child calls."""

    def __init__(self) -> None:
        self.gone: Exception | None = None

    async def _work(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self.gone is not None:
                raise self.gone

    async def begin(self, release: Release, job: Job) -> PoolResult:
        await self._work()
        return PoolResult(release, job, (8, 8), None)  # type: ignore[arg-type]

    async def begin_watched(self, release: Release, job: Job) -> AsyncIterator[Preview | PoolResult]:
        await self._work()
        yield Preview(release, job, 0, None)  # type: ignore[arg-type]
        yield await self.begin(release, job)

    async def finish(self, pool_result: PoolResult) -> PoolResult:
        await self._work()
        return pool_result

    async def finish_watched(self, pool_result: PoolResult) -> AsyncIterator[Preview | PoolResult]:
        yield await self.finish(pool_result)

    async def preview(self, preview: Preview) -> PartialImage:
        await self._work()
        return PartialImage(preview.index, [b"partial"])

    async def develop(self, pool_result: PoolResult) -> GeneratedImages:
        await self._work()
        return GeneratedImages(
            pool_result.release, [b"whole"], (8, 8), "DDIM", {"num_inference_steps": 4, "guidance_scale": 1.0}, {}, {}
        )


class Server:
    """The application over such pools, and what it counts."""

    def __init__(self) -> None:
        self.metrics, self.pools = Metrics(), Pools()
        links = {name: LocalLink(self.pools) for name in ("structure", "texture", "decoder")}
        engine = RequestEngine(links, ServeSettings(), self.metrics)
        engine.routing = ReleaseRouting(champion=RELEASE)
        self.api = build_api(engine, self.metrics)

    def count(self, line: str) -> float:
        """The sum over the lines of /metrics that begin so."""
        lines = self.metrics.exposition()[0].decode().splitlines()
        return sum(float(each.rsplit(" ", 1)[1]) for each in lines if each.startswith(line))

    @property
    def counted(self) -> tuple[float, float, float]:
        """(images drawn, clients that left, answers with any error) so far."""
        left = self.count('pangu_errors_total{code="client_closed_request"')
        return self.count("pangu_images_total"), left, self.count("pangu_errors_total")


class Visit:
    """One request over ASGI whose client leaves after `turns` turns of the event loop.

    manner: how the application hears of it: as ASGI says it, or as Ray does, whose proxy may have dropped the request, or which
    cancels the calls of the request before, or the request itself.
    """

    def __init__(
        self, server: Server, turns: int, manner: str = "ASGI", *, upload: bool = False, **fields: Any
    ) -> None:
        self.server, self.turns, self.manner, self.upload = server, turns, manner, upload
        self.body = json.dumps({"prompt": "x", **fields}).encode()
        self.left, self.asked = asyncio.Event(), False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            body = self.body[:5] if self.upload else self.body
            return {"type": "http.request", "body": body, "more_body": self.upload}
        await self.left.wait()
        if self.manner == "lost proxy":
            raise RuntimeError("the proxy does not know this request")
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.manner == "lost proxy" and self.left.is_set():
            raise RuntimeError("the proxy does not know this request")
        await asyncio.sleep(0)

    async def run(self) -> tuple[float, float, float]:
        """What was counted meanwhile, as `Server.counted`."""
        before, self.server.pools.gone = self.server.counted, None
        path = "/v1/images/generations"
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json")], "client": ("a", 1), "server": ("b", 2),
        }  # fmt: skip
        visit = asyncio.create_task(self.server.api(scope, self.receive, self.send))  # type: ignore[arg-type]
        await self.pass_turns(self.turns)
        if self.manner == "cancelled calls":
            self.server.pools.gone = WorkCancelled()
            await self.pass_turns(4 * TURNS)
        if self.manner == "cancelled request":
            visit.cancel()
        self.left.set()
        await asyncio.wait({visit}, timeout=5)
        assert visit.done() and (visit.cancelled() or visit.exception() is None)
        await self.pass_turns(10)
        assert self.server.count("pangu_requests_in_flight ") == 0
        images, left, errors = (now - then for now, then in zip(self.server.counted, before, strict=True))
        return images, left, errors

    async def pass_turns(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.mark.long
@subtests.parametrize("fields", [{"stream": True, "partial_images": 1}, {"stream": True}, {}], ids=str)
@subtests.parametrize("manner", ["ASGI", "lost proxy", "cancelled calls", "cancelled request"])
def test_a_client_that_leaves_at_any_moment_is_no_error_of_the_server(manner: str, fields: dict[str, Any]) -> None:
    server = Server()

    async def all_visits() -> set[tuple[float, float, float]]:
        return {await Visit(server, turns, manner, **fields).run() for turns in range(1, 80)}

    outcomes = asyncio.run(all_visits())
    assert {(0, 1, 1), (1, 0, 0)} <= outcomes
    for images, left, errors in outcomes:
        assert errors == left <= 1, "a client that left was counted as another error"
        assert images or left, "a request was neither answered nor left"


def test_a_client_that_leaves_while_it_sends_its_body_is_no_error_of_the_server() -> None:
    for manner in ("ASGI", "lost proxy", "cancelled request"):
        assert asyncio.run(Visit(Server(), 5, manner, upload=True).run()) == (0, 1, 1)


def test_what_ray_raises_for_a_cancelled_call_means_that_the_client_left() -> None:
    from pangu.serve.gateway import translated

    for error in (RequestCancelledError(), TaskCancelledError()):
        assert isinstance(translated(error), WorkCancelled)
