"""Text beyond what the encoders take at once: read in windows where they can, otherwise cut and said, also before drawing."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pangu.serve.inference.image_encoding import facts_in
from tests.serve.local import LocalServer, serving

LONG = "a small wooden house beside a quiet lake under the northern lights"
TAIL = " with nine reindeer"


def file_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def pixels(answer: httpx.Response) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file_of(answer))).convert("RGB")).astype(int)


def draw(local: LocalServer, prompt: str, **fields: Any) -> httpx.Response:
    return local.draw(prompt, **{"seed": 3, "num_inference_steps": 4, **fields})


def offered(local: LocalServer) -> bool:
    """Whether the model's description says that long text can be read in windows, by which the studio offers it."""
    return bool(httpx.get(f"{local.url}/v1/models").json()["data"][0]["reads_windows"])


def check(local: LocalServer, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{local.url}/v1/prompts/check", json={"prompt": prompt, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_in_windows_the_end_of_a_text_is_read_and_without_it_is_said_to_be_cut(local: LocalServer) -> None:
    windows = {"long_prompts": "windows"}
    whole, shorter = draw(local, LONG + TAIL, **windows), draw(local, LONG, **windows)
    assert whole.json()["unread"] == [] and not np.array_equal(pixels(whole), pixels(shorter))
    assert whole.json()["request"]["long_prompts"] == "windows" == facts_in(file_of(whole))["long_prompts"]
    assert file_of(draw(local, **whole.json()["request"])) == file_of(whole)
    cut = draw(local, LONG + TAIL)
    assert np.array_equal(pixels(cut), pixels(draw(local, LONG))), "both end behind what is read"
    assert cut.json()["unread"][0]["text"].endswith(TAIL) and "long_prompts" not in cut.json()["request"]
    assert np.array_equal(pixels(draw(local, "a fox", **windows)), pixels(draw(local, "a fox")))
    texts = {"negative_prompt": LONG, "style": {"photo": 1.0}, "texture": {"prompt": "ice"}}
    assert draw(local, "a fox", **windows, **texts).json()["unread"] == []
    endless = draw(local, LONG * 20, **windows).json()["unread"]
    assert endless[0]["max_tokens"] > 16 * 6 and LONG.endswith(endless[0]["text"][-20:])


def test_requests_of_other_lengths_are_drawn_beside_each_other_as_alone(local: LocalServer) -> None:
    bodies = [
        {"prompt": prompt, "seed": 90 + place, "long_prompts": "windows", "num_inference_steps": 10}
        for place, prompt in enumerate([LONG, LONG + TAIL, "a fox", LONG * 3])
    ]
    alone = [pixels(draw(local, **body)) for body in bodies]
    again = [body | {"texture": {"negative_prompt": ""}} for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: draw(local, **body), again))
    for answer, own in zip(answers, alone, strict=True):
        assert np.abs(pixels(answer) - own).max() <= 1


def test_what_would_be_cut_is_said_without_drawing(local: LocalServer) -> None:
    steps = local.metric("pangu_images_total")
    assert check(local, "a fox") == {"unread": [], "unknown": []}
    found = check(local, LONG + TAIL, negative_prompt=LONG)
    assert found["unread"] == draw(local, LONG + TAIL, negative_prompt=LONG).json()["unread"]
    assert check(local, LONG + TAIL, long_prompts="windows")["unread"] == []
    assert local.metric("pangu_images_total") - steps <= 1
    refused = httpx.post(f"{local.url}/v1/prompts/check", json={"prompt": " "}).json()["error"]
    assert refused["param"] == "prompt"
    assert draw(local, "a fox", long_prompts="more").json()["error"]["param"] == "long_prompts"


def test_encoders_that_read_no_windows_cut_and_say_so_and_a_server_may_read_them_always(
    local: LocalServer, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(pair_folder, long_prompts="windows") as server:
        usual = server.draw(LONG + TAIL, seed=3, num_inference_steps=4)
        assert np.array_equal(pixels(usual), pixels(draw(local, LONG + TAIL, long_prompts="windows")))
        assert server.draw(LONG, seed=3, num_inference_steps=4, long_prompts="cut").json()["unread"]
    assert offered(local)
    for module in ("pangu.models.text_windows", "pangu.serve.inference.parts"):
        monkeypatch.setattr(f"{module}.CLIP_LIKE", ())
    with serving(pair_folder) as server:
        assert not offered(server)
        said = draw(server, LONG + TAIL, long_prompts="windows")
    assert said.json()["request"]["long_prompts"] == "cut" and said.json()["unread"]
    assert json.loads(facts_in(file_of(said))["unread"]) == said.json()["unread"]
