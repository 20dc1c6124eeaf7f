"""What a picture says of itself draws it again, and what was cut off or left without a step is said."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pangu.serve.inference.image_encoding import facts_in
from tests import subtests
from tests.serve.local import LocalServer

LONG = "一只坐在开满鲜花的山坡上看着远方大海和白色帆船慢慢驶过的橙色小狐狸，天空中有云"
TAIL = "a wooden house beside a lake under the northern lights with nine reindeer"
prompts = st.sampled_from(["a fox", "一只狐狸", LONG, "红苹果, 3D\nemoji", TAIL])
guidances = st.sampled_from([1.0, 2.5, 7.0])
styles = st.dictionaries(st.sampled_from(["photo", "cartoon"]), st.sampled_from([-1.0, 0.0, 1.5]), max_size=2)
steps = st.integers(3, 6)
textures = st.fixed_dictionaries(
    {},
    optional={
        "prompt": prompts,
        "negative_prompt": prompts,
        "style": styles,
        "guidance_scale": guidances,
        "num_inference_steps": steps,
    },
)
requests = st.fixed_dictionaries(
    {"prompt": prompts, "seed": st.integers(0, 2**32 - 1)},
    optional={
        "n": st.integers(1, 3),
        "size": st.sampled_from(["auto", "96x96"]),
        "quality": st.sampled_from(["low", "high"]),
        "negative_prompt": prompts,
        "num_inference_steps": steps,
        "guidance_scale": guidances,
        "scheduler": st.sampled_from(["ddim", "euler_ancestral", "heun", "dpmpp_2m", "unipc"]),
        "style": styles | st.just("vivid"),
        "texture": textures,
        "output_format": st.sampled_from(["png", "jpeg", "webp"]),
        "output_compression": st.integers(60, 100),
    },
)


def files_of(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def edit(
    local: LocalServer, image: bytes, path: str = "edits", mask: bytes | None = None, **body: Any
) -> httpx.Response:
    files = {"image": ("a.png", image)} | ({} if mask is None else {"mask": ("m.png", mask)})
    data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
    return httpx.post(f"{local.url}/v1/images/{path}", data=data, files=files, timeout=60)


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


@given(requests)
@example(
    {
        "prompt": "a fox",
        "seed": 5,
        "num_inference_steps": 4,
        "texture": {"prompt": "ice", "num_inference_steps": 6, "guidance_scale": 1.0, "style": {}},
        "style": {"photo": 2.0},
    }
)
@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_what_a_file_says_of_itself_draws_the_same_bytes_again(local: LocalServer, body: dict[str, Any]) -> None:
    answer = local.draw(**body)
    drawn, said = files_of(answer), answer.json()
    again = files_of(local.draw(**said["request"]))
    for index, file in enumerate(drawn):
        facts = facts_in(file)
        assert json.loads(facts["request"]) == said["request"]
        assert again[int(facts["image_index"])] == file
        assert int(facts["seed"]) == (body["seed"] + index) % 2**32
        assert {role: int(facts[f"{role}_steps"]) for role in said["steps"]} == said["steps"]
        for name, value in said["request"].items():
            if name not in ("n", "seed", "scheduler"):
                assert facts[name] == value or json.loads(facts[name]) == value
    for name in ("seed", "guidance_scale", "num_inference_steps", "negative_prompt", "scheduler"):
        assert said["request"].get(name) == body.get(name, said["request"].get(name))
    texture = body.get("texture") or {}
    assert {name: said["request"].get("texture", {}).get(name) for name in texture} == texture
    assert (said["num_inference_steps"], said["guidance_scale"]) == (
        said["request"]["num_inference_steps"],
        said["request"]["guidance_scale"],
    )


def test_edits_with_and_without_a_mask_and_variations_are_drawn_again_from_their_facts(local: LocalServer) -> None:
    source = files_of(local.draw("a lemon", seed=2, num_inference_steps=4))[0]
    mask = mask_of(np.s_[:40, :60])
    for path, body, extra in (
        ("edits", {"prompt": "a fox", "seed": 4, "num_inference_steps": 6, "style": {"photo": 1.0}}, {}),
        ("edits", {"prompt": LONG, "n": 2, "output_format": "webp"}, {"mask": mask}),
        ("variations", {"n": 2}, {}),
    ):
        answer = edit(local, source, path, **extra, **body)
        drawn = files_of(answer)
        facts = facts_in(drawn[-1])
        assert files_of(edit(local, source, path, **extra, **json.loads(facts["request"]))) == drawn
        assert answer.json()["steps"]["structure"] == 0 < answer.json()["steps"]["texture"]
        assert ("mask_sha256" in facts) == bool(extra) and len(facts["image_sha256"]) == 64


def mask_of(edited: Any, size: tuple[int, int] = (96, 96)) -> bytes:
    """A png that is transparent where `edited` says."""
    alpha = np.full((*size, 4), 255, np.uint8)
    alpha[edited] = 0
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    return file.getvalue()


@subtests.parametrize("scheduler", ["ddim", "heun", "dpmpp_2m", "euler_ancestral"])
def test_only_where_a_mask_is_transparent_an_edit_changes_a_pixel(local: LocalServer, scheduler: str) -> None:
    source = files_of(local.draw("a lemon", seed=2, num_inference_steps=4))[0]
    edited = np.s_[10:50, 20:70]
    asked = {"prompt": "a fox", "seed": 4, "num_inference_steps": 8, "scheduler": scheduler}
    result = pixels(files_of(edit(local, source, mask=mask_of(edited), **asked))[0])
    changed = np.abs(result - pixels(source)).max(-1)
    inside = np.zeros_like(changed, bool)
    inside[edited] = True
    assert not changed[~inside].any()
    assert (changed[inside] > 2).mean() > 0.5
    everywhere = pixels(files_of(edit(local, source, mask=mask_of(np.s_[:, :]), **asked))[0])
    assert np.array_equal(everywhere, pixels(files_of(edit(local, source, **asked))[0]))


def test_a_mask_that_lets_nothing_or_something_else_be_edited_is_refused(local: LocalServer) -> None:
    source = files_of(local.draw("a lemon", seed=2))[0]
    for mask in (mask_of(np.s_[:0]), mask_of(np.s_[:9], (48, 48)), source, b"no png"):
        error = edit(local, source, mask=mask, prompt="a fox").json()["error"]
        assert (error["param"], error["code"]) == ("mask", "invalid_value"), error


@subtests.parametrize("scheduler", [None, "euler", "heun", "unipc"])
def test_a_half_without_steps_is_refused_and_the_named_number_is_the_least(local: LocalServer, scheduler: str) -> None:
    asked = {"seed": 1, **({"scheduler": scheduler} if scheduler else {})}
    texture = {"prompt": "ice", "guidance_scale": 5.0, "num_inference_steps": 200}
    error = local.draw(**asked, num_inference_steps=1, texture=texture).json()["error"]
    assert error["param"] == "num_inference_steps"
    least = int(error["message"].rstrip(".").rsplit(" ", 1)[1])
    for number in range(1, least):
        assert local.draw(**asked, num_inference_steps=number).status_code == 400
    said = local.draw(**asked, num_inference_steps=least).json()
    assert min(said["steps"].values()) > 0
    source = files_of(local.draw(seed=1))[0]
    refused = edit(local, source, prompt="a fox", num_inference_steps=1, **asked).json()["error"]
    assert refused["param"] == "num_inference_steps" and "texture half" in refused["message"]
    error = local.draw(**asked, num_inference_steps=6, texture={"num_inference_steps": 1}).json()["error"]
    assert error["param"] == "texture.num_inference_steps" and "the least is" in error["message"]


def test_steps_of_both_halves_are_said_also_where_texture_has_its_own(local: LocalServer) -> None:
    asked = {"prompt": "steps", "seed": 3, "num_inference_steps": 8}
    assert local.draw(**asked).json()["steps"] == {"structure": 4, "texture": 4}
    said = local.draw(**asked, texture={"num_inference_steps": 16}).json()
    assert said["structure_cached"] and said["num_inference_steps"] == 8
    assert said["steps"]["structure"] == 4 and said["steps"]["texture"] >= 8


def test_text_that_is_not_read_is_said_in_answer_file_header_and_events(
    local: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[str, Any] = {
        "negative_prompt": "blurry" * 40,
        "seed": 1,
        "style": {"photo": 1.0},
        "texture": {"prompt": TAIL},
        "num_inference_steps": 4,
    }
    answer = local.draw(LONG, **asked)
    unread = {each["param"]: each for each in answer.json()["unread"]}
    assert set(unread) == {"prompt", "negative_prompt", "texture.prompt", "style.photo", "texture.style.photo"}
    for param, text in (("prompt", LONG), ("texture.prompt", TAIL), ("style.photo", LONG)):
        assert text.endswith(unread[param]["text"]) and unread[param]["text"] != text
        assert unread[param]["tokens"] > unread[param]["max_tokens"] == 16
    # The prefix of a style takes the place of text.
    assert len(unread["style.photo"]["text"]) > len(unread["prompt"]["text"])
    # What is said to be cut is exactly what changes nothing.
    kept = LONG.removesuffix(unread["prompt"]["text"])
    alone = {"seed": 1, "num_inference_steps": 4}
    first, other, shorter = (
        pixels(files_of(local.draw(text, **alone))[0]) for text in (LONG, kept + "完全不同", kept[:-1])
    )
    assert np.array_equal(first, other) and not np.array_equal(first, shorter)
    assert json.loads(facts_in(files_of(answer)[0])["unread"]) == answer.json()["unread"]
    counts = dict(each.split("=") for each in answer.headers["X-PanGu-Unread"].split(", "))
    assert counts == {param: str(len(each["text"])) for param, each in unread.items()}
    streamed = local.draw(LONG, **asked | {"seed": 2}, stream=True, partial_images=2)
    assert streamed.headers["X-PanGu-Unread"] == answer.headers["X-PanGu-Unread"]
    events = [
        json.loads(line.removeprefix("data: ")) for line in streamed.text.splitlines() if line.startswith("data: ")
    ]
    assert [event["unread"] for event in events] == [answer.json()["unread"]] * len(events) and len(events) > 1
    assert LONG[-8:] not in caplog.text
    short = local.draw("a fox", seed=1, num_inference_steps=4)
    assert short.json()["unread"] == [] and "X-PanGu-Unread" not in short.headers
