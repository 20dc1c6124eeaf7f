"""Fixtures that several parts share: the real stack, started once for all tests that need it."""

import tests.environment  # noqa: F401, I001  first, for what it says of imports

import functools
import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from pangu.garbage import look_seldom
from pangu.stack import Stack
from pangu.storage import Home
from tests.own_stack import own_stack

# httpx reads the world's certificates anew for each client, which most requests of a test are: 20 ms of a processor.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)

# A busy machine is no failure: properties are checked, not timed.
settings.register_profile("pangu", deadline=None, max_examples=50)
settings.load_profile("pangu")


def pytest_collection_finish() -> None:
    """From here on garbage is looked for, among what tests make, and as seldom as in the processes of the product."""
    gc.collect()
    gc.freeze()
    look_seldom()
    gc.enable()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Of all tests that need one; ended after the last test."""
    with own_stack(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def stack_environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The running stack, which this process and its children find through their environment."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    return stack


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, which is also `$PANGU_HOME`."""
    monkeypatch.setenv("PANGU_HOME", str(tmp_path))
    return Home(tmp_path)


@pytest.fixture
def card_that_takes_forever(tmp_path: Path) -> Iterator[Path]:
    """A card whose only URL names a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / "urls.csv").write_text(f"url,caption\nhttp://127.0.0.1:{port}/a.png,a\n")
        card = tmp_path / "forever.yaml"
        card.write_text(
            "name: forever\nsource: urls.csv\ncolumns: {url: url, caption_en: caption}\nlicence: {name: none}\n"
            "limits: {max_seconds: 300, stall_seconds: 300, retries: 0, allow_private_hosts: ['127.0.0.1']}\n"
        )
        yield card
