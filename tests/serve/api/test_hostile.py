"""Whatever arrives at the port gets an answer below 500, in OpenAI's form, and leaves the server as it was."""

import json
import os
import socket
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from tests import subtests
from tests.serve.local import LocalServer

JSON = {"Content-Type": "application/json"}
FORM = "multipart/form-data; boundary=x"
FUZZED = int(os.environ.get("PANGU_FUZZ_EXAMPLES", "12"))
"""Requests for each operation; more for a longer look."""
GENERATIONS = "/v1/images/generations"


def post(local: LocalServer, content: bytes, headers: dict[str, str] = JSON, path: str = GENERATIONS) -> httpx.Response:
    return httpx.post(f"{local.url}{path}", content=content, headers=headers, timeout=30)


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "x", "num_inference_steps": 2, **fields}).encode()


BODIES = {
    "10 MB prompt": (body(prompt="x" * 10_000_000), 413, None),
    "long prompt": (body(prompt="x" * 4001), 400, "prompt"),
    "NUL": (body(prompt="a\0b"), 400, "prompt"),
    "control characters": (body(prompt="a\x1b[31mb"), 400, "prompt"),
    "lone surrogate": (b'{"prompt": "\\ud800"}', 400, "prompt"),
    "lone surrogate in a name": (b'{"prompt": "x", "\\udfff": 1}', 400, "\\udfff"),
    "NaN": (b'{"prompt": "x", "guidance_scale": NaN}', 400, "guidance_scale"),
    "infinity": (b'{"prompt": "x", "guidance_scale": 1e999}', 400, "guidance_scale"),
    "n of a billion": (body(n=10**9), 400, "n"),
    "a number of 5000 digits": (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400, None),
    "negative steps": (body(num_inference_steps=-1), 400, "num_inference_steps"),
    "size 0x0": (body(size="0x0"), 400, "size"),
    "size 1e9x1": (body(size="1e9x1"), 400, "size"),
    "size of Arabic digits": (body(size="٩٦x٩٦"), 400, "size"),
    "deep JSON": (b"[" * 100_000, 400, None),
    "deep JSON in a field": (b'{"prompt": "x", "style": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", 400, "style"),
    "a field that is not there": (body(colour="red"), 400, "colour"),
    "a list": (b"[1]", 400, None),
    "no UTF-8": (b"\xff\xfe\x00", 400, None),
    "nothing": (b"", 400, None),
}


@subtests.parametrize("name", BODIES)
def test_hostile_bodies_are_refused(local: LocalServer, name: str) -> None:
    content, status, param = BODIES[name]
    answer = post(local, content)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert len(error["message"]) < 500


@subtests.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": ""},
        {},
    ],
)
def test_another_content_type_is_refused(local: LocalServer, headers: dict[str, str]) -> None:
    assert post(local, body(), headers).json()["error"]["code"] == "invalid_content_type"


@subtests.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"hello", FORM),
        (b"--x\r\n\r\n--x--", FORM),
        (b"--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nfox\r\n--x--\r\n", FORM),
        (b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n" * 200 + b"--x--\r\n", FORM),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nfox\r\n--x--\r\n", FORM),
        (b"{}", "application/json"),
    ],
)  # fmt: skip
def test_hostile_forms_are_refused(local: LocalServer, content: bytes, kind: str) -> None:
    answer = post(local, content, {"Content-Type": kind}, "/v1/images/edits")
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_form_of_9_megabytes_is_refused(local: LocalServer) -> None:
    answer = httpx.post(
        f"{local.url}/v1/images/edits", data={"prompt": "x"}, files={"image": b"x" * 9_000_000}, timeout=30
    )
    assert answer.status_code == 413


def test_connections_that_stop_half_way_do_not_hold_the_server(local: LocalServer) -> None:
    address = local.url.removeprefix("http://").split(":")
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    slow = [socket.create_connection((address[0], int(address[1]))) for _ in range(20)]
    for connection in slow:
        connection.sendall(head.encode() + b'{"prompt"')
    for connection in slow[:10]:
        connection.shutdown(socket.SHUT_WR)
    assert local.draw(seed=1, num_inference_steps=2).status_code == 200
    for connection in slow:
        connection.close()
    assert local.metric("pangu_requests_in_flight ") == 0


def test_paths_and_methods_that_do_not_exist_are_openai_errors(local: LocalServer) -> None:
    answers = [
        (httpx.get(f"{local.url}{GENERATIONS}"), 405),
        (httpx.get(f"{local.url}/nowhere"), 404),
        (httpx.get(f"{local.url}/v1/models/gpt-image-1"), 404),
        (httpx.get(f"{local.url}/v1/models/..%2f..%2fetc%2fpasswd"), 404),
    ]
    for answer, status in answers:
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_bound_stands_in_the_document(local: LocalServer) -> None:
    paths = httpx.get(f"{local.url}/openapi.json").json()["paths"]
    schema = paths[GENERATIONS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["properties"]
    assert fields["n"]["maximum"] == 10
    assert fields["prompt"]["maxLength"] == 4000
    assert schema["additionalProperties"] is False
    assert "$ref" not in json.dumps(schema)
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"prompt", "image"}


def test_requests_made_from_the_document_never_break_the_server(local: LocalServer) -> None:
    schema = schemathesis.openapi.from_url(f"{local.url}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=FUZZED, suppress_health_check=list(HealthCheck), database=None)
        def check(case: Any) -> None:
            limit(case)
            answer = case.call(timeout=60)
            case.validate_response(answer, checks=[not_a_server_error])
            statuses.setdefault(f"{case.method} {case.path}", set()).add(answer.status_code)

        check()
    assert 200 in statuses[f"POST {GENERATIONS}"]
    assert len(statuses) == 10


def limit(case: Any) -> None:
    """Fewer steps than the document allows: what is tested is the server, not the patience."""
    if not isinstance(case.body, dict):
        return
    for fields in (case.body, case.body.get("texture")):
        steps = fields.get("num_inference_steps") if isinstance(fields, dict) else None
        if isinstance(steps, int):
            fields["num_inference_steps"] = min(steps, 2)
        elif isinstance(steps, dict):
            steps.update({half: min(count, 2) for half, count in steps.items() if isinstance(count, int)})
