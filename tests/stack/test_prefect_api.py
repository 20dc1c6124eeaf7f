"""A busy Prefect server is asked again; its refusals are not."""

import httpx
import pytest

from pangu.stack.prefect_api import Patient


def client(answers: list[int], asked: list[bytes]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.read())
        return httpx.Response(answers.pop(0))

    return httpx.Client(base_url="http://prefect", transport=Patient(httpx.MockTransport(answer), (0, 0)))


@pytest.mark.parametrize(
    ("answers", "seen", "times"),
    [([503, 201], 201, 2), ([502, 503, 200], 200, 3), ([503, 503, 503], 503, 3), ([409], 409, 1), ([500], 500, 1)],
)
def test_busy_is_asked_again_with_the_same_body(answers: list[int], seen: int, times: int) -> None:
    asked: list[bytes] = []
    response = client(list(answers), asked).post("/flow_runs", json={"name": "x"})
    assert response.status_code == seen
    assert len(asked) == times
    assert set(asked) == {b'{"name":"x"}'}
