"""Steps, guidance and its interval chosen for each half: what is drawn, what is said, and what the networks are asked."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.errors import UserError
from pangu.models.schedulers import named_sampler
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.inference.image_encoding import facts_in
from tests import subtests
from tests.serve.local import LocalServer

INTERVAL = {"structure": [600, 800], "texture": [100, 300]}


@pytest.fixture(scope="module")
def pipeline(local: LocalServer) -> PanGuDrawPipeline:
    pair = PanGuDrawPipeline.from_pretrained(local.folder)
    pair.set_progress_bar_config(disable=True)
    return pair


def files_of(answer: Any) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


@subtests.parametrize(
    "fields",
    [
        {"num_inference_steps": {"structure": 3, "texture": 2}},
        {"num_inference_steps": {"structure": 1, "texture": 5}, "scheduler": "dpmpp_2m"},
        {"num_inference_steps": {"structure": 4, "texture": 1}, "scheduler": "euler"},
        {"num_inference_steps": 9, "step_split": "log_snr"},
        {"num_inference_steps": {"structure": 2, "texture": 3}, "guidance_scale": {"structure": 5.0, "texture": 1.0}},
        {"num_inference_steps": 6, "guidance_interval": INTERVAL, "guidance_scale": 7.0},
        {"num_inference_steps": 6, "guidance_interval": [200, 700], "texture": {"prompt": "ice"}},
    ],
    ids=lambda fields: json.dumps(fields),
)
def test_halves_are_drawn_as_asked_said_and_drawn_again_as_by_the_pipeline(
    local: LocalServer, pipeline: PanGuDrawPipeline, fields: dict[str, Any]
) -> None:
    answer = local.draw("a fox", seed=5, n=2, **fields)
    files, said = files_of(answer), answer.json()
    asked = fields["num_inference_steps"]
    if isinstance(asked, dict):
        assert said["steps"] == asked == said["num_inference_steps"]
    else:
        assert sum(said["steps"].values()) == asked
    facts = facts_in(files[1])
    assert {role: int(facts[f"{role}_steps"]) for role in said["steps"]} == said["steps"]
    assert files_of(local.draw(**said["request"])) == files
    own = dict(fields)
    prompts = {"texture": own.pop("texture")["prompt"]} if "texture" in own else None
    scheduler, trained = own.pop("scheduler", None), pipeline.scheduler
    try:
        pipeline.scheduler = named_sampler(scheduler, trained) if scheduler else trained
        drawn = pipeline(
            "a fox", generator=[torch.Generator().manual_seed(5 + image) for image in range(2)], prompts=prompts,
            num_images_per_prompt=2, **{"guidance_scale": said["request"]["guidance_scale"], **own} | texture_scale(said),
        ).images  # fmt: skip
    finally:
        pipeline.scheduler = trained
    for image, file in zip(drawn, files, strict=True):
        assert np.abs(np.asarray(image).astype(int) - pixels(file)).max() <= 1


def texture_scale(said: dict[str, Any]) -> dict[str, Any]:
    own = said["request"].get("texture", {}).get("guidance_scale")
    return {} if own is None else {"guidance_scales": {"texture": own}}


def test_what_is_equal_is_drawn_equal_and_what_differs_is_not_taken_from_the_cache(local: LocalServer) -> None:
    asked = {"prompt": "a cache of halves", "seed": 3}

    def drawn(**fields: Any) -> tuple[bytes, bool]:
        answer = local.draw(**asked, **fields)
        return pixels(files_of(answer)[0]).tobytes(), answer.json()["structure_cached"]

    whole, _ = drawn(num_inference_steps=8)
    assert drawn(num_inference_steps={"structure": 4, "texture": 4})[0] == whole
    other, cached = drawn(num_inference_steps={"structure": 4, "texture": 2})
    assert cached and other != whole, "texture alone differs"
    assert drawn(num_inference_steps=8, guidance_interval=[0, 1000])[0] == whole
    narrow, cached = drawn(num_inference_steps=8, guidance_interval={"texture": [600, 700]})
    assert narrow == drawn(num_inference_steps=8, texture={"guidance_scale": 1.0})[0] != whole
    inside, cached = drawn(num_inference_steps=8, guidance_interval={"structure": [0, 600]})
    assert not cached and inside != whole, "the layout depends on where it is guided"
    usual = local.draw(**asked, num_inference_steps=8).json()["guidance_scale"]
    plain, cached = drawn(num_inference_steps=8, guidance_scale={"structure": 1.0, "texture": usual})
    assert plain == inside and not cached, "none of the structure's timesteps lies in that interval"


def test_outside_the_interval_no_network_is_asked_for_the_negative_prompt(pipeline: PanGuDrawPipeline) -> None:
    rows: list[tuple[float, int]] = []
    for role in ("structure", "texture"):
        pipeline.components[role].register_forward_pre_hook(
            lambda _, args, kwargs: rows.append((float(args[1][0]), len(args[0]))), with_kwargs=True
        )
    pipeline("a fox", num_inference_steps=10, guidance_interval=INTERVAL, negative_prompt="blur", output_type="latent")
    assert len(rows) == 10
    for timestep, asked in rows:
        guided = any(low <= timestep <= high for low, high in INTERVAL.values())
        assert asked == (2 if guided else 1), timestep


def test_requests_of_other_intervals_and_steps_share_calls_and_are_drawn_as_alone(local: LocalServer) -> None:
    kinds: list[dict[str, Any]] = [
        {"guidance_interval": INTERVAL},
        {"guidance_interval": [0, 400], "guidance_scale": {"structure": 2.0, "texture": 9.0}},
        {"num_inference_steps": {"structure": 7, "texture": 2}},
        {},
    ]
    bodies = [{"num_inference_steps": 12, **fields, "seed": 60 + place} for place, fields in enumerate(kinds)]
    alone = [pixels(files_of(local.draw("together", **body))[0]) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: local.draw("together", **body), bodies))
    for answer, own in zip(answers, alone, strict=True):
        assert np.abs(pixels(files_of(answer)[0]) - own).max() <= 1


@subtests.parametrize(
    ("fields", "param", "said"),
    [
        ({"num_inference_steps": {"structure": 0, "texture": 3}}, "num_inference_steps.structure", "equal to 1"),
        ({"num_inference_steps": {"structure": 3}}, "num_inference_steps.texture", "Missing"),
        ({"num_inference_steps": 1, "step_split": "log_snr"}, "num_inference_steps", "the least is 2"),
        ({"num_inference_steps": {"structure": 3, "texture": 3}, "step_split": "log_snr"}, "step_split", "already"),
        ({"step_split": "log_snr", "texture": {"num_inference_steps": 3}}, "texture.num_inference_steps", "step_split"),
        ({"guidance_scale": {"structure": 3.0, "texture": 2.0}, "texture": {"guidance_scale": 1.0}},
         "texture.guidance_scale", "already"),
        ({"guidance_interval": [500, 100]}, "guidance_interval.structure", "the lowest timestep comes first"),
        ({"guidance_interval": {"texture": [1.0]}}, "guidance_interval.texture", "at least 2"),
        ({"guidance_interval": {"middle": [1, 2]}}, "guidance_interval.middle", "Unknown"),
        ({"coop": {"partners": ["x"]}, "num_inference_steps": {"structure": 3, "texture": 3}}, "num_inference_steps", "coop"),
    ],
)  # fmt: skip
def test_what_can_not_be_chosen_is_one_sentence(
    local: LocalServer, fields: dict[str, Any], param: str, said: str
) -> None:
    error = local.draw(seed=1, **fields).json()["error"]
    assert error["param"] == param and said in error["message"], error


def test_an_edit_takes_texture_steps_and_guidance_of_each_half(local: LocalServer) -> None:
    import httpx

    source = files_of(local.draw("a lemon", seed=2, num_inference_steps=4))[0]
    body = {"prompt": "a fox", "seed": "4", "num_inference_steps": '{"structure": 9, "texture": 3}',
            "guidance_scale": '{"structure": 1.0, "texture": 6.0}', "guidance_interval[texture]": "[100, 400]"}  # fmt: skip
    url, files = f"{local.url}/v1/images/edits", {"image": ("a.png", source)}
    answer = httpx.post(url, data=body, files=files, timeout=60)
    drawn = files_of(answer)
    assert answer.json()["steps"] == {"structure": 0, "texture": 3}
    again = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in answer.json()["request"].items()
    }
    assert files_of(httpx.post(url, data=again, files=files, timeout=60)) == drawn
    plain = {"prompt": "a fox", "seed": "4", "num_inference_steps": body["num_inference_steps"]}
    assert files_of(httpx.post(url, data=plain, files=files, timeout=60)) != drawn


def test_the_pipeline_refuses_what_it_can_not_share_out(pipeline: PanGuDrawPipeline) -> None:
    for arguments, said in (
        ({"num_inference_steps": {"structure": 3}}, "one value for each of structure, texture"),
        ({"num_inference_steps": {"structure": 3, "texture": 0}}, "the least number is 1"),
        ({"num_inference_steps": {"structure": 3, "texture": 2}, "step_split": "log_snr"}, "shares one number"),
        ({"step_split": "even"}, "may be log_snr"),
        ({"guidance_interval": (9, 3)}, "lowest <= highest"),
        ({"guidance_interval": {"middle": (1, 2)}}, "may name structure, texture"),
        ({"prompts": {"middle": "a"}}, "may name structure, texture"),
    ):
        with pytest.raises(UserError, match=said):
            pipeline("a fox", **arguments)
