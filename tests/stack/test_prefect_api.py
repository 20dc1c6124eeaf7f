"""A busy Prefect server is asked again; its refusals are not."""

import ssl
from pathlib import Path

import httpx
import pytest

from pangu.stack.certificates import trusted
from pangu.stack.health import prefect_answers
from pangu.stack.model import Stack
from pangu.stack.prefect_api import RetryTransport, prefect_api
from tests import subtests


def client(answers: list[int], asked: list[bytes]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.read())
        return httpx.Response(answers.pop(0))

    return httpx.Client(base_url="http://prefect", transport=RetryTransport(httpx.MockTransport(answer), (0, 0)))


@subtests.parametrize(
    ("answers", "seen", "times"),
    [([503, 201], 201, 2), ([502, 503, 200], 200, 3), ([503, 503, 503], 503, 3), ([409], 409, 1), ([500], 500, 1)],
)
def test_busy_is_asked_again_with_the_same_body(answers: list[int], seen: int, times: int) -> None:
    asked: list[bytes] = []
    response = client(list(answers), asked).post("/flow_runs", json={"name": "x"})
    assert response.status_code == seen
    assert len(asked) == times
    assert set(asked) == {b'{"name":"x"}'}


def test_a_connection_that_ends_without_an_answer_is_asked_again_only_for_what_reads() -> None:
    def at(path: str, method: str, ends: int) -> tuple[int, int]:
        """(status, times asked) of a request whose first `ends` connections end without an answer."""
        asked = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            if len(asked) <= ends:
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            return httpx.Response(200)

        with httpx.Client(
            base_url="http://prefect", transport=RetryTransport(httpx.MockTransport(answer), (0, 0))
        ) as api:
            return api.request(method, path).status_code, len(asked)

    assert at("/flow_runs/7", "GET", 1) == (200, 2)
    assert at("/flow_runs/filter", "POST", 2) == (200, 3)
    for path, method, ends in (("/deployments/7/create_flow_run", "POST", 1), ("/flow_runs/7", "GET", 3)):
        with pytest.raises(httpx.RemoteProtocolError):
            at(path, method, ends)


def test_certificates_are_read_once_for_all_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[int] = []
    there = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *args, **more: read.append(1) or there(*args, **more))
    trusted.cache_clear()
    ports = dict.fromkeys(
        ("prefect_port", "mlflow_port", "ray_port", "ray_client_port", "ray_dashboard_port", "serve_port"), 1
    )
    nobody = Stack(stack_id="x", **dict.fromkeys(("home", "project", "runtime", "token_path"), tmp_path), **ports)
    for _ in range(3):
        prefect_api("http://127.0.0.1:1/api").close()
        assert not prefect_answers(nobody)
    assert len(read) == 1
