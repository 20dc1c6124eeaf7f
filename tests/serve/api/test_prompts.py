"""The embedded pair draws whatever people may write, says what it does not know, and refuses the rest in one sentence."""

import base64
import io
import json
import unicodedata
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pangu.pipelines.assemble import save_pair
from pangu.serve.inference.image_encoding import facts_in
from pangu.starter.pair import starter_pair
from tests import subtests
from tests.serve.local import LocalServer, serving


@pytest.fixture(autouse=True)
def _small_vocabularies_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at hand are smaller than any that words are judged by; the rule is the same."""
    monkeypatch.setattr("pangu.models.known_words.SMALL_VOCABULARY", 512)


DRAWN = {
    "template words alone": "a picture of",
    "template words alone, Chinese": "画一个",
    "marks": "...",
    "a digit": "7",
    "mixed languages": "a 红苹果",
    "an emoji": "🦊",
    "an emoji in text form": "❤",
    "two emoji": "🦊🍎",
    "emoji joined": "👩\u200d🚒 👨🏽\u200d🚀",
    "a flag": "🇨🇳",
    "half of an emoji sequence": "\u200d🏽\ufe0f",
    "right to left": "\u202ea fox\u202c \u200f",
    "a byte order mark": "\ufefffox",
    "C1 controls": "fox\x85\x9b",
    "lines": "a fox\r\n\tand\u2028a wolf",
    "no characters": "\ufffe\uffff\U0010ffff",
    "marks upon marks": "f" + "\u0301" * 200 + "ox",
    "as many emoji as there may be": "🦊" * 4000,
    "one word without end": "a" * 4000,
}
REFUSED = {
    "nothing": "",
    "blanks": " \u3000\n",
    "half a character": "a \ud83e fox",
    "NUL": "fox\0",
    "escape": "\x1b[31mfox",
    "10,000 emoji": "🦊" * 10_000,
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("embedded") / "pair"
    save_pair(starter_pair(), folder)
    with serving(folder) as server:
        yield server


def draw(server: LocalServer, prompt: str, **fields: Any) -> httpx.Response:
    """A client that sends whatever its user wrote, lone surrogates included."""
    body = {"prompt": prompt, "seed": 1, "num_inference_steps": 2, **fields}
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{server.url}/v1/images/generations", content=json.dumps(body), headers=headers, timeout=60)


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.mark.long
@subtests.parametrize("name", DRAWN)
def test_it_is_drawn_and_drawn_again_from_what_the_file_says(embedded: LocalServer, name: str) -> None:
    answer = draw(embedded, DRAWN[name])
    assert pixels(answer).shape == (96, 96, 3)
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    asked = json.loads(facts_in(file)["request"])
    assert asked == answer.json()["request"] and asked["prompt"] == DRAWN[name]
    assert draw(embedded, **asked).json()["data"] == answer.json()["data"]
    for header, value in answer.headers.items():
        assert value.isascii() and value.isprintable(), header


@subtests.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence_that_names_the_prompt(embedded: LocalServer, name: str) -> None:
    answer = draw(embedded, REFUSED[name])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "prompt", "invalid_value")
    assert error["message"].count(".") == 1 and "\n" not in error["message"]


def test_case_width_and_composition_of_letters_change_no_pixel(embedded: LocalServer) -> None:
    plain = pixels(draw(embedded, "red apple"))
    for text in ("RED APPLE", "ｒｅｄ ａｐｐｌｅ", "red\u00a0apple"):
        assert np.array_equal(pixels(draw(embedded, text)), plain), text
    forms = [pixels(draw(embedded, unicodedata.normalize(form, "piñata が"))) for form in ("NFC", "NFD", "NFKD")]
    assert all(np.array_equal(form, forms[0]) for form in forms)


def test_a_language_that_it_never_met_is_drawn_and_said_to_be_unknown(embedded: LocalServer) -> None:
    fields: dict[str, Any] = {"negative_prompt": "собака", "texture": {"prompt": "अ आ"}}
    answer = draw(embedded, "рыжая лиса, рыжая", **fields)
    assert answer.json()["unknown"] == [
        {"param": "prompt", "words": ["рыжая", "лиса"]},
        {"param": "negative_prompt", "words": ["собака"]},
        {"param": "texture.prompt", "words": ["अ", "आ"]},
    ]
    said = answer.json()["warnings"]
    assert len(said) == 3 and said[0].startswith("prompt ") and "(рыжая, лиса)" in said[0]
    assert answer.headers["X-PanGu-Unknown"] == "prompt=2, negative_prompt=1, texture.prompt=2"
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert json.loads(facts_in(file)["unknown"]) == answer.json()["unknown"]
    streamed = draw(embedded, "рыжая лиса, рыжая", **fields, stream=True, partial_images=1)
    assert streamed.headers["X-PanGu-Unknown"] == answer.headers["X-PanGu-Unknown"]
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(line)["unknown"] for line in lines] == [answer.json()["unknown"]] * len(lines)
    for text in ("red apple", "红苹果", "a 红苹果", "...", "7"):
        known = draw(embedded, text)
        assert known.json()["unknown"] == known.json()["warnings"] == [], text
        assert "X-PanGu-Unknown" not in known.headers
