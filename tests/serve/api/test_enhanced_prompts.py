"""A prompt worded by a chat model that the server declares: drawn, said, and left alone where the model is of no use."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pangu.serve.inference.image_encoding import facts_in
from pangu.serve.inference.prompt_enhancer import NotEnhanced, PromptEnhancer
from pangu.serve.settings import EnhanceSettings
from tests import subtests
from tests.serve.local import LocalServer, serving

REVISED = "a red fox in the snow at night"


class Chat:
    """A server that speaks OpenAI's protocol, as far as it is told to. answer: the text; or (status, headers, body)."""

    def __init__(self) -> None:
        self.answer: Any = REVISED
        self.wait_s = 0.0
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator["Chat"]:
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.asked.append((self.path, self.headers["Authorization"], body))
                time.sleep(chat.wait_s)
                status, headers, text = (
                    chat.answer if isinstance(chat.answer, tuple) else (200, {}, completion(chat.answer))
                )
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def completion(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    with Chat().running() as chat:
        yield chat


@pytest.fixture(scope="module")
def server(chat: Chat, pair_folder: Path) -> Iterator[LocalServer]:
    enhance = {
        "address": chat.url,
        "model": "small",
        "key_variable": "CHAT_KEY",
        "timeout_s": 60,
        "request": {"temperature": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAT_KEY", "secret")
        with serving(pair_folder, enhance=enhance, denied_words=["weapon"]) as server:
            yield server


@pytest.fixture(autouse=True)
def _useful_again(chat: Chat) -> None:
    chat.answer, chat.wait_s = REVISED, 0.0
    chat.asked.clear()


def drawn(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    return answer.json(), base64.b64decode(answer.json()["data"][0]["b64_json"])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def draw(server: LocalServer, prompt: str = "a fox", **fields: Any) -> httpx.Response:
    return server.draw(prompt, **{"seed": 8, "num_inference_steps": 4, **fields})


def test_what_the_chat_model_says_is_drawn_and_named(server: LocalServer, chat: Chat) -> None:
    chat.answer = f' "{REVISED}"\n'
    said, file = drawn(draw(server, enhance=True))
    assert said["data"][0]["revised_prompt"] == REVISED == said["request"]["prompt"] and said["warnings"] == []
    assert facts_in(file)["original_prompt"] == "a fox" and facts_in(file)["prompt"] == REVISED
    path, key, body = chat.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["messages"][1] == {"role": "user", "content": "a fox"} and body["temperature"] == 0
    assert np.array_equal(pixels(file), pixels(drawn(draw(server, REVISED))[1]))
    assert np.array_equal(pixels(drawn(server.draw(**said["request"]))[1]), pixels(file))
    assert len(chat.asked) == 1, "what was worded once is not asked again"
    events = draw(server, enhance=True, stream=True, partial_images=1).text
    last = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")][-1]
    assert last["revised_prompt"] == REVISED
    assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["enhances"] is True


@subtests.parametrize(
    ("answer", "reason"),
    [
        ("word " * 1000, "characters"),
        ("", "answered nothing"),
        (None, "answered nothing"),
        ("\n \t", "answered nothing"),
        ("half a \ud83e", "no chat completion"),
        ((200, {}, b"<html>"), "no chat completion"),
        ((200, {}, b'{"choices": []}'), "no chat completion"),
        ((200, {}, b'"' + b"x" * 10**6), "more than"),
        ((500, {}, b"{}"), "status 500"),
        ((302, {"Location": "/v1/elsewhere"}, b""), "status 302"),
        ("the weapon of a fox", "refused here"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_of_no_use_leaves_the_prompt_as_it_is(
    server: LocalServer, chat: Chat, answer: Any, reason: str
) -> None:
    chat.answer = answer
    chat.asked.clear()
    said, file = drawn(draw(server, enhance=True))
    assert [reason in warning and "enhance had no effect" in warning for warning in said["warnings"]] == [True], said
    assert said["request"]["prompt"] == "a fox" and "revised_prompt" not in said["data"][0]
    assert np.array_equal(pixels(file), pixels(drawn(draw(server))[1]))
    assert [path for path, *_ in chat.asked] == ["/v1/chat/completions"], "asked once, and nobody else"


def test_nobody_waits_longer_than_is_set_and_nothing_that_is_refused_leaves(
    server: LocalServer, chat: Chat, local: LocalServer
) -> None:
    chat.wait_s = 3.0
    impatient = EnhanceSettings(address=chat.url, model="small", timeout_s=0.5)
    with pytest.raises(NotEnhanced, match=r"did not answer within 0\.5 s"):
        asyncio.run(PromptEnhancer(impatient).revised("a fox"))
    chat.asked.clear()
    chat.wait_s = 0.0
    refused = draw(server, "a weapon", enhance=True)
    assert refused.json()["error"]["code"] == "moderation_blocked" and chat.asked == []
    assert draw(server, enhance="yes").json()["error"]["param"] == "enhance"
    said, _ = drawn(draw(local, enhance=True))
    assert said["warnings"] == ["enhance had no effect: this server declares no endpoint for it."]
