"""Coop-Diffusion over real HTTP: partners in Stable Diffusion's format, named in requests, declared by the server."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from pangu.pipelines import CoopPipeline, Partner
from pangu.pipelines.coop.loading import load_pipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.inference.image_encoding import facts_in
from tests import subtests
from tests.pipelines.coop import small
from tests.serve.local import LocalServer, serving

STEPS = 2


@pytest.fixture(scope="module")
def partners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three declared partners: a plain one, one under a ControlNet, and one whose folder is not there."""
    folder = tmp_path_factory.mktemp("partners")
    pipe = small.stable_diffusion(seed=3)
    pipe.save_pretrained(folder / "plain")
    small.controlnet(pipe.unet).save_pretrained(folder / "edges")
    plain = str(folder / "plain")
    return {
        "style": {"source": plain},
        "edges": {"source": plain, "controlnets": [str(folder / "edges")]},
        "lost": {"source": str(folder / "nowhere")},
    }


@pytest.fixture(scope="module")
def coop(pair_folder: Path, partners: dict[str, Any]) -> Iterator[LocalServer]:
    with serving(pair_folder, coop={"partners": partners, "held": 1}) as server:
        yield server


def control(size: int = 96, format_: str = "PNG") -> str:
    picture = Image.fromarray(np.tile(np.arange(size, dtype=np.uint8), (size, 1))).convert("RGB")
    file = io.BytesIO()
    picture.save(file, format_)
    return base64.b64encode(file.getvalue()).decode()


def draw(coop: LocalServer, partner: str, **fields: Any) -> httpx.Response:
    return coop.draw(seed=5, num_inference_steps=STEPS, coop={"partners": [partner], **fields})


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))).astype(int)


def test_a_named_partner_draws_along_as_the_pipeline_does(coop: LocalServer, partners: dict[str, Any]) -> None:
    answer = draw(coop, "style", strength=0.5, bridge={"every": 2})
    pair = PanGuDrawPipeline.from_pretrained(coop.folder)
    together = CoopPipeline(pair, Partner(load_pipeline(partners["style"]["source"]), strength=0.5, every=2))
    together.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(5)
    guidance = answer.json()["guidance_scale"]
    expected = together(
        "a red apple", num_inference_steps=STEPS, guidance_scale=guidance, generator=seed, height=96, width=96
    ).images[0]
    assert np.abs(pixels(answer) - np.asarray(expected).astype(int)).max() <= 1
    assert answer.json()["partners"] == ["style"]
    assert answer.json()["data"] == draw(coop, "style", strength=0.5, bridge={"every": 2}).json()["data"]


def test_a_stream_shows_what_the_cooperation_would_draw_and_ends_with_the_answers_own_bytes(coop: LocalServer) -> None:
    asked: dict[str, Any] = {"prompt": "a red apple", "seed": 5, "num_inference_steps": 4}
    asked["coop"] = {"partners": ["style"], "strength": 0.5}
    body = asked | {"stream": True, "partial_images": 3}
    answer = httpx.post(f"{coop.url}/v1/images/generations", json=body, timeout=60)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["type"].split(".")[1] for event in events] == ["partial_image"] * 3 + ["completed"]
    whole = pixels(coop.draw(**asked))
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))).astype(int) for event in events]
    assert np.array_equal(shown[-1], whole)
    assert np.abs(shown[2] - whole).mean() < np.abs(shown[0] - whole).mean()


def test_strength_0_is_the_pair_alone_and_a_larger_one_is_not(coop: LocalServer) -> None:
    alone = pixels(coop.draw(seed=5, num_inference_steps=STEPS))
    assert np.abs(pixels(draw(coop, "style", strength=0.0)) - alone).max() <= 1
    assert np.abs(pixels(draw(coop, "style", strength=0.9)) - alone).max() > 1


def test_the_control_image_of_a_request_steers_the_partner(coop: LocalServer) -> None:
    first = pixels(draw(coop, "edges", control_image=control()))
    flat = io.BytesIO()
    Image.new("RGB", (96, 96)).save(flat, "PNG")
    second = pixels(draw(coop, "edges", control_image=base64.b64encode(flat.getvalue()).decode()))
    assert np.abs(first - second).max() > 0
    as_url = pixels(draw(coop, "edges", control_image="data:image/png;base64," + control()))
    assert np.array_equal(first, as_url)


def test_a_cooperation_is_drawn_again_from_what_its_file_says(coop: LocalServer) -> None:
    fields = {"strength": 0.3, "bridge": {"every": 2, "stop": 0.9}, "control_image": control()}
    answer = coop.draw(
        "a fox " * 20, seed=5, num_inference_steps=4, style={"photo": 1.0}, n=2, coop={"partners": ["edges"], **fields}
    )
    assert answer.json()["steps"] == {"structure": 2, "texture": 2}
    assert {each["param"] for each in answer.json()["unread"]} == {"prompt", "style.photo"}
    file = base64.b64decode(answer.json()["data"][1]["b64_json"])
    facts = facts_in(file)
    body = json.loads(facts["request"])
    assert json.loads(facts["coop"]) == body["coop"] and len(facts["control_image_0_sha256"]) == 64
    again = coop.draw(**body | {"coop": body["coop"] | {"control_image": control()}})
    assert again.json()["data"] == answer.json()["data"]
    refused = coop.draw(num_inference_steps=1, coop={"partners": ["style"]}).json()["error"]
    assert (refused["param"], refused["code"]) == ("num_inference_steps", "invalid_value")


def test_no_more_partners_are_held_than_declared_and_each_comes_back(coop: LocalServer) -> None:
    before = draw(coop, "style").json()["data"]
    assert draw(coop, "edges", control_image=control()).status_code == 200
    assert draw(coop, "style").json()["data"] == before


@subtests.parametrize(
    ("fields", "param", "says"),
    [
        ({"partners": ["/etc/passwd"]}, "coop.partners", "'/etc/passwd' is not served; known are style, edges, lost"),
        ({"partners": ["http://example.org/model"]}, "coop.partners", "is not served"),
        ({"partners": ["../plain"]}, "coop.partners", "is not served"),
        ({"partners": ["style", "style"], "strength": 0.3}, "coop.partners", "named once"),
        ({"partners": ["style", "edges"], "strength": 0.3}, "coop.partners", "at most 1"),
        ({"partners": ["edges"]}, "coop.control_image", "partner 'edges' needs a control image"),
        ({"partners": ["style"], "control_image": control()}, "coop.control_image", "none of the partners takes one"),
        ({"partners": ["edges"], "control_image": "no base64!"}, "coop.control_image", "not a PNG in base64"),
        ({"partners": ["edges"], "control_image": "aGVsbG8="}, "coop.control_image", "not a PNG in base64"),
        ({"partners": ["edges"], "control_image": control(format_="JPEG")}, "coop.control_image", "not a PNG"),
        ({"partners": ["edges"], "control_image": control(96)[:200]}, "coop.control_image", "damaged"),
        ({"partners": ["edges"], "control_image": control(48)}, "coop", "48x48"),
        ({"partners": ["edges"], "control_image": control(2056)}, "coop.control_image", "longer than 2048"),
        ({"partners": ["edges"], "control_image": control(), "bridge": {"every": -1}}, "coop.bridge.every", "greater"),
    ],
)
def test_each_bad_field_gets_one_sentence(coop: LocalServer, fields: dict[str, Any], param: str, says: str) -> None:
    answer = coop.draw(coop=fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert says in error["message"]
    assert error["message"].count("\n") == 0


def test_a_declared_partner_that_is_not_there_is_the_servers_fault_and_harms_nobody_else(coop: LocalServer) -> None:
    answer = draw(coop, "lost")
    assert answer.status_code == 500
    assert "nowhere" not in answer.text
    assert draw(coop, "style").status_code == 200


def test_models_lists_the_partners(coop: LocalServer, local: LocalServer) -> None:
    assert httpx.get(f"{coop.url}/v1/models").json()["data"][0]["partners"] == ["style", "edges", "lost"]
    assert local.draw(coop={"partners": ["style"]}).json()["error"]["param"] == "coop"
