"""Adapters of single requests: as by the pipeline, also beside requests with others, and refused by name and by interval."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.inference.image_encoding import facts_in
from tests import subtests
from tests.models.adapter_files import ATTENTION, random_adapter, spelled
from tests.serve.local import LocalServer, serving

STEPS = 4


@pytest.fixture(scope="module")
def pipeline(pair_folder: Path) -> PanGuDrawPipeline:
    pair = PanGuDrawPipeline.from_pretrained(pair_folder)
    pair.set_progress_bar_config(disable=True)
    return pair


@pytest.fixture(scope="module")
def files(pipeline: PanGuDrawPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters in two formats; `other` says that it was trained for the other half."""
    folder, found = tmp_path_factory.mktemp("loras"), {}
    written = {"ink": ("structure", "kohya"), "ink2": ("texture", "peft"), "oil": ("structure", "diffusers")}
    for seed, (name, (role, form)) in enumerate({**written, "other": ("texture", "peft")}.items()):
        unet = pipeline.components[role]
        (folder / name).mkdir()
        found[name] = folder / name / "weights.safetensors"
        save_file(spelled(unet, random_adapter(unet, ATTENTION, seed), form), found[name])
    pipeline.contract("texture").save(folder / "other")
    return found


def declared(files: dict[str, Path]) -> dict[str, Any]:
    """The settings of a server with these adapters, of which it holds two at once."""
    loras = {
        "ink": {"structure": str(files["ink"]), "texture": str(files["ink2"])},
        "oil": {"structure": str(files["oil"])},
        "fine": {"texture": str(files["ink2"])},
        "other": {"structure": str(files["other"])},
        "gone": {"texture": "/nowhere/at/all"},
    }
    return {"loras": loras, "loras_held": 2}


@pytest.fixture(scope="module")
def server(pair_folder: Path, files: dict[str, Path]) -> Iterator[LocalServer]:
    with serving(pair_folder, max_in_flight=16, **declared(files)) as server:
        yield server


def drawn(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def test_a_request_is_drawn_as_the_pipeline_draws_with_its_adapters(
    server: LocalServer, pipeline: PanGuDrawPipeline, files: dict[str, Path]
) -> None:
    asked = {"seed": 4, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    plain = drawn(server.draw(**asked))
    answer = server.draw(**asked, loras=[{"name": "ink", "texture": 0.5}, {"name": "oil", "weight": -0.5}])
    assert answer.json()["request"]["loras"] == [
        {"name": "ink", "weight": 1.0, "texture": 0.5},
        {"name": "oil", "weight": -0.5},
    ]
    facts = facts_in(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert json.loads(facts["loras"]) == answer.json()["request"]["loras"]
    assert np.array_equal(drawn(server.draw(**answer.json()["request"])), drawn(answer))
    pipeline.load_lora_weights(files["ink"], "ink", role="structure")
    pipeline.load_lora_weights(files["ink2"], "ink", role="texture")
    pipeline.load_lora_weights(files["oil"], "oil", role="structure")
    pipeline.set_adapters(["ink", "oil"], [{"structure": 1.0, "texture": 0.5}, -0.5])
    expected = pipeline(
        "a red apple",
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
    ).images[0]
    pipeline.unload_lora_weights()
    assert np.abs(np.asarray(expected).astype(int) - drawn(answer)).max() <= 1
    assert np.abs(plain - drawn(answer)).max() > 8
    assert np.array_equal(drawn(server.draw(**asked)), plain), "the weights stay as they were"
    zero = drawn(server.draw(**asked, loras=[{"name": "ink", "weight": 0.0}]))
    assert np.array_equal(zero, plain)


def test_adapters_of_different_requests_share_calls_and_draw_as_alone_with_few_in_memory(server: LocalServer) -> None:
    """Two adapters fit, four are asked for: requests wait for a place, and nobody for ever."""
    kinds: list[list[dict[str, Any]]] = [
        [{"name": "ink"}], [{"name": "oil"}], [{"name": "fine"}, {"name": "oil", "structure": 0.5}], [],
        [{"name": "fine", "texture": -1.0}], [{"name": "oil"}, {"name": "ink"}],
    ]  # fmt: skip
    bodies = [
        {"seed": 70 + place, "num_inference_steps": 10, "loras": loras, "texture": {"num_inference_steps": 10}}
        for place, loras in enumerate(kinds)
    ]
    alone = [drawn(server.draw("mixed", **body)) for body in bodies]
    fresh = [body | {"texture": {"num_inference_steps": 10, "negative_prompt": ""}} for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: server.draw("mixed", **body), fresh))
    for answer, own in zip(answers, alone, strict=True):
        assert np.abs(drawn(answer) - own).max() <= 1


@subtests.parametrize(
    ("fields", "param", "said"),
    [
        ({"loras": [{"name": "nobody"}]}, "loras", "'nobody' is not served; known are ink, oil, fine, other, gone"),
        ({"loras": [{"name": "oil", "texture": 1.0}]}, "loras", "'oil' has no adapter for the texture half"),
        ({"loras": [{"name": "oil"}, {"name": "oil"}]}, "loras", "may be named once"),
        ({"loras": [{"name": "ink"}, {"name": "oil"}, {"name": "fine"}]}, "loras", "at most 2"),
        ({"loras": [{"name": "other"}]}, "loras", "was trained for t in [0, 500) (texture)"),
        ({"loras": [{"name": "gone"}]}, "loras", "There is no adapter at gone"),
        ({"loras": [{"name": "ink", "structure": 9.0}]}, "loras", "less than or equal to 2"),
        ({"loras": [{"structure": 1.0}]}, "loras", "Missing"),
        ({"loras": [{"name": "ink"}], "coop": {"partners": ["x"]}}, "loras", "coop"),
    ],
)
def test_what_can_not_act_is_refused_in_one_sentence(
    server: LocalServer, fields: dict[str, Any], param: str, said: str
) -> None:
    answer = server.draw(seed=1, num_inference_steps=STEPS, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and said in error["message"], error
    assert "/" not in error["message"], "where adapters lie is nobody's business"


def test_the_models_list_names_them(server: LocalServer) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"][0]["loras"]
    assert listed == ["ink", "oil", "fine", "other", "gone"]
