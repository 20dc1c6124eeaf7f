"""A door before a server that keeps what clients send, in a form that can be compared: without boundaries, headers and pixels."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

KEPT = ("content-type", "authorization", "accept")
"""Headers that go on to the server."""


def fields_of(content_type: str, body: bytes) -> dict[str, Any]:
    """`json`, or `form`: a list of [name, text] and [name, {"file": media type}] in the order sent."""
    if content_type.startswith("application/json"):
        return {"json": json.loads(body)}
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts: list[list[Any]] = []
    for part in form.get_payload():
        assert not isinstance(part, str)
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts.append([name, {"file": part.get_content_type()} if part.get_filename() else content.decode()])
    return {"form": parts}


class Recorder:
    """What has been sent so far, oldest first; `url` is where clients are to ask."""

    def __init__(self, url: str) -> None:
        self.url, self.requests = url, list[dict[str, Any]]()


@contextmanager
def recording(server_url: str) -> Iterator[Recorder]:
    """Passes every request on to the server, until the block ends."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            recorder.requests.append({"path": self.path, **fields_of(self.headers["content-type"], body)})
            headers = {name: self.headers[name] for name in KEPT if name in self.headers}
            answer = httpx.post(server_url + self.path, content=body, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        recorder = Recorder(f"http://127.0.0.1:{door.server_port}")
        thread = threading.Thread(target=door.serve_forever, daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            door.shutdown()
            thread.join(10)
