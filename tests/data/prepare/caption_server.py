"""A server of OpenAI's chat protocol that sees: it names the main colour of the picture that it is sent."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": ("红", (220, 30, 30)), "green": ("绿", (30, 200, 30)), "blue": ("蓝", (30, 30, 220))}
Answer = tuple[int, str, dict[str, str]]
"""Status, body, headers."""


def captions_of(colour: str) -> dict[str, str]:
    """What the server says of a picture, by what it is asked for."""
    return {
        "short_en": f"a {colour} square", "short_zh": f"一个{COLOURS[colour][0]}色的方块",
        "long_en": f"a {colour} square " + "that lies on its own in the middle of the picture, evenly lit from all sides, " * 2,
        "long_zh": f"一个{COLOURS[colour][0]}色的方块" + "，安静地躺在画面的正中央，四周的光线十分均匀" * 3,
    }  # fmt: skip


@dataclass
class Server:
    """What it was asked, and what it answers: `first` may answer a request in its stead, by its number from 0."""

    address: str = ""
    first: Callable[[int, dict[str, Any]], Answer | None] = lambda number, asked: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, asked: dict[str, Any], key: str) -> Answer:
        with self.lock:
            number = len(self.asked)
            self.asked.append(asked)
            self.keys.append(key)
        return self.first(number, asked) or completion(json.dumps(self.captions(asked), ensure_ascii=False))

    @staticmethod
    def captions(asked: dict[str, Any]) -> dict[str, str]:
        question, picture = asked["messages"][0]["content"]
        data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3).mean(0)
        said = captions_of(min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name][1]).sum())))
        return {key: text for key, text in said.items() if f'"{key}"' in question["text"]}


def completion(text: str) -> Answer:
    body = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    return 200, json.dumps(body), {}


@contextmanager
def caption_server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, body, headers = server.answer(asked, self.headers.get("authorization", ""))
            if self.path != "/v1/chat/completions":
                status, body = 404, "no such path"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("content-length", str(len(body.encode())))
            self.close_connection |= "Content-Length" in headers  # in the middle: more was announced than comes
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    server.address = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
