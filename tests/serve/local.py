"""A tiny pair behind real HTTP in this process: what most serving tests need, in about a second."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pangu.serve.connections import server_of
from pangu.serve.settings import ServeSettings
from pangu.serve.standalone import standalone_api


class LocalServer:
    """The running server."""

    def __init__(self, url: str, folder: Path, api: Any) -> None:
        self.url, self.folder, self.api = url, folder, api

    def draw(self, prompt: str = "a red apple", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"prompt": prompt, **fields}
        return httpx.post(f"{self.url}/v1/images/generations", json=body, headers=headers, timeout=60)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics that begins with `line`; 0 if there is none."""
        return metric_at(self.url, line)


def metric_at(url: str, line: str) -> float:
    """The value of a line of a server's /metrics that begins with `line`; 0 if there is none."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(each.rsplit(" ", 1)[1]) for each in lines if each.startswith(line))


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[LocalServer]:
    """`pangu serve` of a pair folder on a free port, until the block ends."""
    api = standalone_api(folder, ServeSettings.model_validate(settings))
    with answering(api) as url:
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield LocalServer(url, folder, api)


@contextmanager
def answering(api: Any) -> Iterator[str]:
    """The address of an application on a free port, until the block ends; what it accepted until then it finishes."""
    with running(server_of(api, ServeSettings(), 0)) as url:
        yield url


@contextmanager
def running(server: Any) -> Iterator[str]:
    """The address of a uvicorn server in a thread, until the block ends."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def wait_for(condition: Any, seconds: float = 180) -> None:
    """Until `condition()` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
