"""Connections that are silent, slow or too many keep nobody out: real sockets, a real server, nothing drawn."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pangu.serve.api import bounds, build_api
from pangu.serve.connections import ConnectionLimits, limits_of, server_of
from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage, Release
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests import subtests
from tests.serve.local import running, wait_for

checks = subtests.Checks()


RELEASE = Release(pair_version=1, structure_version=1, texture_version=1, sha256="0", created=0, folder=Path("x"))
PATH = "/v1/images/generations"
BODY = b'{"prompt": "x"}'
HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
)
SHORT = ConnectionLimits(head_s=0.2, idle_s=0.2, reader_s=0.5, check_every_s=0.05)


class Painter:
    """Draws files of `size` bytes at once, or once it is allowed to."""

    def __init__(self, size: int = 10) -> None:
        self.routing, self.warmed, self.partners = None, set[str](), list[str]()
        self.size, self.allowed, self.begun = size, True, 0

    async def draw(self, job: Job, channel: str | None = None) -> GeneratedImages:
        self.begun += 1
        while not self.allowed:
            await asyncio.sleep(0.01)
        return GeneratedImages(
            RELEASE, [b"x" * self.size], (8, 8), "DDIM", {"num_inference_steps": 4, "guidance_scale": 1.0}, {}, {}
        )

    async def watch(self, job: Job, channel: str | None = None) -> AsyncIterator[PartialImage | GeneratedImages]:
        yield await self.draw(job, channel)

    async def holdings(self) -> dict[str, list[str]]:
        return {}


class Place:
    """A running server: where it is, and how many connections it holds."""

    def __init__(self, url: str, server: Any, painter: Painter) -> None:
        self.url, self.painter, self._server = url, painter, server
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def draw(self) -> httpx.Response:
        return httpx.post(f"{self.url}{PATH}", content=BODY, headers={"Content-Type": "application/json"}, timeout=20)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=20)


@contextmanager
def place(limits: ConnectionLimits, **painter: Any) -> Iterator[Place]:
    artist = Painter(**painter)
    server = server_of(build_api(artist, Metrics()), ServeSettings(drain_s=2), 0, limits)
    with running(server) as url:
        yield Place(url, server, artist)


def opened(stack: ExitStack, at: Place, sent: bytes = b"") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(at.address, timeout=20))
    connection.sendall(sent)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def refusal_in(received: bytes) -> tuple[int, str]:
    """(status, code) of a raw answer in OpenAI's form."""
    head, _, body = received.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


SILENT = {
    "nothing sent": b"",
    "half a head": HEAD[:40],
    "half a body": HEAD + BODY[:5],
    "one request answered": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
}


@checks
def four_hundred_silent_connections_leave_room_for_health_and_for_drawing() -> None:
    kinds = list(SILENT.values())
    with place(ConnectionLimits(most=100)) as at, ExitStack() as stack:
        for index in range(400):
            opened(stack, at, kinds[index % len(kinds)])
        for _ in range(3):
            assert at.get("/healthz").status_code == 200
            assert at.draw().status_code == 200
        assert at.connections <= 101


@checks
def a_server_of_the_settings_takes_at_most_half_of_the_files_that_may_be_open() -> None:
    import resource

    most = limits_of(ServeSettings(max_in_flight=100_000)).most
    assert 32 <= most <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] / 2


@subtests.parametrize(("kind", "refused"), zip(SILENT, [None, 408, 408, None], strict=True))
def test_a_connection_that_is_silent_for_too_long_is_ended(
    kind: str, refused: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_BODY_S", 0.2)
    with place(SHORT) as at, ExitStack() as stack:
        received = read_to_the_end(opened(stack, at, SILENT[kind]))
        if refused is not None:
            assert refusal_in(received) == (refused, "request_timeout")
        else:
            assert received.endswith(b'{"status":"ok"}') == bool(SILENT[kind])


@checks
def a_head_that_trickles_in_is_given_up() -> None:
    with place(SHORT) as at, ExitStack() as stack:
        connection = opened(stack, at)
        connection.settimeout(0.02)
        received, began = b"", time.monotonic()
        for sign in HEAD * 100:
            try:
                connection.sendall(bytes([sign]))
                received += connection.recv(65536)
            except TimeoutError:
                continue
            break
        assert refusal_in(received)[0] == 408
        assert time.monotonic() - began < 10


@checks
def where_every_connection_is_busy_health_answers_and_others_are_told_when_to_come_back() -> None:
    with place(ConnectionLimits(most=3)) as at, ThreadPoolExecutor(3) as clients:
        at.painter.allowed = False
        jobs = [clients.submit(at.draw) for _ in range(3)]
        wait_for(lambda: at.painter.begun == 3)
        for _ in range(2):
            assert at.get("/healthz").status_code == 200
            refused = at.draw()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
        assert 'code="overloaded",status="503"} 2.0' in at.get("/metrics").text
        at.painter.allowed = True
        assert [job.result().status_code for job in jobs] == [200] * 3


@checks
def a_client_that_does_not_read_is_cut_off_and_a_slow_one_is_not() -> None:
    with place(SHORT, size=6 * 2**20) as at, ExitStack() as stack:
        slow, deaf = (socket.socket() for _ in range(2))
        for connection in (slow, deaf):
            stack.enter_context(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.settimeout(20)
            connection.connect(at.address)
            connection.sendall(HEAD.replace(b"Host: x", b"Host: x\r\nConnection: close") + BODY)
        received, began = 0, time.monotonic()
        while part := slow.recv(2**17):
            received += len(part)
            time.sleep(0.03)
        assert time.monotonic() - began > 2 * SHORT.reader_s
        assert received > 8 * 2**20
        wait_for(lambda: at.connections == 0, 10)


@checks
def what_is_no_http_and_a_head_without_end_are_refused_in_openais_form() -> None:
    with place(ConnectionLimits()) as at, ExitStack() as stack:
        for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000):
            assert refusal_in(read_to_the_end(opened(stack, at, sent))) == (400, "invalid_http")


test_connections = checks.test()
