"""How much of an image an edit keeps: by its strength, on either side of the boundary, with and without a mask."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pangu.serve.inference.image_encoding import facts_in
from tests.serve.local import LocalServer


@pytest.fixture(scope="module")
def source(local: LocalServer) -> bytes:
    return file_of(local.draw("a lemon", seed=2, num_inference_steps=4))


def file_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def edit(local: LocalServer, image: bytes, mask: bytes | None = None, **fields: Any) -> httpx.Response:
    files = {"image": ("a.png", image)} | ({} if mask is None else {"mask": ("m.png", mask)})
    body = {"prompt": "a fox", "seed": 4, "num_inference_steps": 10, **fields}
    data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
    return httpx.post(f"{local.url}/v1/images/edits", data=data, files=files, timeout=120)


def test_more_strength_keeps_less_and_asks_the_half_that_owns_its_timesteps(local: LocalServer, source: bytes) -> None:
    plain = edit(local, source)
    distances = []
    for strength, taken in ((0.1, (0, 1)), (0.5, (0, 5)), (0.8, (3, 5)), (1.0, (5, 5))):
        answer = edit(local, source, strength=strength)
        steps = answer.json()["steps"]
        assert (steps["structure"], steps["texture"]) == taken, (strength, steps)
        distances.append(float(np.abs(pixels(file_of(answer)) - pixels(source)).mean()))
        assert (np.array_equal(pixels(file_of(answer)), pixels(file_of(plain)))) == (strength == 0.5)
    assert distances == sorted(distances) and distances[0] < distances[-1] / 2, distances
    facts = facts_in(file_of(edit(local, source, strength=0.8)))
    assert facts["strength"] == "0.8" and facts["structure_steps"] == "3"
    again = edit(local, source, **json.loads(facts["request"]))
    assert file_of(again) == file_of(edit(local, source, strength=0.8))


def test_a_mask_holds_whatever_the_strength_and_the_steps(local: LocalServer, source: bytes) -> None:
    alpha = np.full((96, 96, 4), 255, np.uint8)
    alpha[20:60, 30:80] = 0
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    for fields in (
        {"strength": 1.0},
        {"strength": 0.9, "num_inference_steps": {"structure": 3, "texture": 1}},
        {"strength": 0.9, "num_inference_steps": {"structure": 1, "texture": 4}, "scheduler": "dpmpp_2m"},
        {"strength": 0.2},
    ):
        answer = edit(local, source, file.getvalue(), **fields)
        changed = np.abs(pixels(file_of(answer)) - pixels(source)).max(-1)
        inside = np.zeros_like(changed, bool)
        inside[20:60, 30:80] = True
        assert not changed[~inside].any() and changed[inside].any(), fields
        asked = fields.get("num_inference_steps")
        assert asked in (None, answer.json()["steps"])


def test_partial_images_come_from_both_halves(local: LocalServer, source: bytes) -> None:
    streamed = edit(local, source, strength=1.0, stream=True, partial_images=3)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert [event.get("partial_image_index") for event in events] == [0, 1, 2, None]
    assert base64.b64decode(events[-1]["b64_json"]) == file_of(edit(local, source, strength=1.0))


def test_what_is_no_strength_is_refused_and_the_least_steps_are_named(local: LocalServer, source: bytes) -> None:
    for value in (0, 1.5, "much"):
        assert edit(local, source, strength=value).json()["error"]["param"] == "strength"
    assert local.draw(strength=0.5).json()["error"]["message"] == "Unknown parameter: 'strength'."
    error = edit(local, source, strength=0.05, num_inference_steps=4).json()["error"]
    assert error["param"] == "num_inference_steps" and "texture half" in error["message"]
    least = int(error["message"].rstrip(".").rsplit(" ", 1)[1])
    assert edit(local, source, strength=0.05, num_inference_steps=least - 1).status_code == 400
    assert edit(local, source, strength=0.05, num_inference_steps=least).json()["steps"]["texture"] >= 1
