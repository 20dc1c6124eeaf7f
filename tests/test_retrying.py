"""Waiting for a server that is being restarted, with a real socket."""

import socket
import threading
import time

import pytest

from pangu.retrying import VARIABLE, patience_s, retrying
from pangu.stack.ports import free_port
from tests import subtests


@pytest.fixture
def port() -> int:
    return free_port()


def reach(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    return True


def test_a_server_that_comes_back_in_time_is_reached(port: int) -> None:
    def come_back() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.accept()

    thread = threading.Thread(target=come_back)
    thread.start()
    assert retrying(lambda: reach(port), (OSError,), 60)
    thread.join()


def test_without_patience_the_failure_comes_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConnectionRefusedError):
        retrying(lambda: reach(port), (OSError,))


def test_other_failures_are_not_waited_for() -> None:
    asked: list[int] = []

    def refuse() -> None:
        asked.append(1)
        raise ValueError("upside down")

    with pytest.raises(ValueError, match="upside down"):
        retrying(refuse, (OSError,), 60)
    assert len(asked) == 1


@subtests.parametrize(("text", "seconds"), [("", 0), ("12", 12), ("0.5", 0.5), ("long", 0), ("-3", 0)])
def test_the_environment_says_how_long(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert patience_s() == seconds
