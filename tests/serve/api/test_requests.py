"""Whatever a client sends is a request within its bounds, or one error that names the field."""

import json
import string
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pangu.serve.api import bounds
from pangu.serve.api.requests import ImageRequest, parse_body, parse_request
from pangu.serve.api.translate import job_of
from pangu.serve.error_answers import ApiError
from pangu.serve.inference.facts import request_of
from pangu.serve.settings import ServeSettings
from tests import subtests

SETTINGS = ServeSettings()
# Every code point, lone surrogates included: JSON can carry them and no encoder accepts them.
any_text = st.text(st.characters(), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=8
)
fields = st.sampled_from(sorted(ImageRequest.model_fields)) | any_text


def refusal(value: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_request(value)
    return caught.value


def check_is_an_answer(error: ApiError, value: object) -> None:
    """The error is OpenAI's object, can be sent, and names what is wrong."""
    detail = error.body.error
    assert error.status in (400, 404)
    assert detail.message and detail.type == "invalid_request_error"
    error.body.model_dump_json().encode()
    if isinstance(value, dict):
        assert detail.param is not None
        assert detail.param in detail.message or detail.code == "model_not_found"
        assert "\n" not in detail.message


@given(st.dictionaries(fields, json_values, max_size=6) | json_values)
@example({"prompt": "x", "\ud800": 1})
@example({"prompt": "\udfff"})
@example({"prompt": "x", "model": "\ud800"})
@example({"prompt": "x", "n": 10**400})
@example({"prompt": "x", "guidance_scale": float("nan")})
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_request_within_bounds_or_an_error_that_names_the_field(value: object) -> None:
    try:
        request = parse_request(value)
    except ApiError as error:
        check_is_an_answer(error, value)
        return
    assert 1 <= request.n <= bounds.MAX_IMAGES
    assert request.prompt.strip()
    assert len(request.prompt) <= bounds.MAX_PROMPT_CHARS
    for side in request.width_height or ():
        assert side % 8 == 0
        assert bounds.MIN_SIDE <= side <= bounds.MAX_SIDE
    request.model_dump_json().encode()


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20).filter(str.strip)
scales = st.floats(0, 2)
asked_for = {
    "prompt": texts,
    "seed": st.integers(0, bounds.MAX_SEED),
    "size": st.sampled_from(["96x96", "2048x32"]),
    "num_inference_steps": st.integers(1, bounds.MAX_STEPS),
    "guidance_scale": st.floats(0, bounds.MAX_GUIDANCE),
}
left_out = {
    "n": st.integers(1, 4),
    "negative_prompt": texts,
    "style": st.dictionaries(texts, scales, min_size=1, max_size=3),
    "output_format": st.sampled_from(["png", "jpeg", "webp"]),
    "output_compression": st.integers(0, 100),
}
intervals = st.tuples(st.floats(0, 400), st.floats(400, 1000)).map(list)
adapters = st.fixed_dictionaries({"name": texts, "weight": scales}, optional={"texture": scales})
pair_alone = {
    "loras": st.lists(adapters, min_size=1, max_size=4),
    "long_prompts": st.sampled_from(["cut", "windows"]),
    "guidance_interval": intervals | st.fixed_dictionaries({"texture": intervals}),
    "scheduler": st.sampled_from(["ddim", "heun"]),
    "lora_scales": st.fixed_dictionaries({"structure": scales}, optional={"texture": scales}),
    "texture": st.fixed_dictionaries(
        {"prompt": texts},
        optional={"style": st.dictionaries(texts, scales, max_size=2), "num_inference_steps": st.just(7)},
    ),
}
bridges = {
    "every": st.integers(1, 9),
    "start": st.floats(0, 0.4),
    "stop": st.floats(0.5, 1),
    "upsample": st.just("spanx2"),
}
together = {
    "coop": st.fixed_dictionaries(
        {"partners": st.lists(texts, min_size=1, max_size=3), "strength": st.floats(0, 0.3)},
        optional={"bridge": st.fixed_dictionaries({}, optional=bridges)},
    )
}


@given(st.one_of(st.fixed_dictionaries(asked_for, optional=left_out | more) for more in (pair_alone, together)))
@settings(max_examples=100, deadline=None)
def test_the_body_that_a_job_is_said_to_come_from_makes_the_same_job(body: dict[str, object]) -> None:
    job = job_of(parse_request(body), SETTINGS)
    if job.output_format == "png":
        job = replace(job, output_compression=90)
    assert job_of(parse_request(json.loads(json.dumps(request_of(job)))), SETTINGS) == job


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"[" * 60_000)
@example(b'{"prompt": ' + b"9" * 5000 + b"}")
@example(b'{"prompt": "x", "seed": 1e999}')
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_request_or_an_error(body: bytes) -> None:
    try:
        parse_body(body)
    except ApiError as error:
        assert error.status in (400, 404)
        error.body.model_dump_json().encode()


@given(st.text(string.digits + "xX 1٣-+.eE", max_size=9))
@example("96x96\n")
@example("1e9x1")
@example("0x0")
@example("٩٦x٩٦")
def test_a_size_is_two_multiples_of_eight_within_bounds_or_refused(size: str) -> None:
    try:
        width, height = parse_request({"prompt": "x", "size": size}).width_height or (0, 0)
    except ApiError as error:
        assert error.body.error.param == "size"
    else:
        assert size == f"{width}x{height}"


@subtests.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "x", "steps": 3}, "steps", "unknown_parameter"),
        ({"prompt": "x", "steps": None}, "steps", "unknown_parameter"),
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": "a\x00b"}, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
        ({"prompt": "x", "n": 0}, "n", "invalid_value"),
        ({"prompt": "x", "n": True}, "n", "invalid_value"),
        ({"prompt": "x", "size": "100x100"}, "size", "invalid_value"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps", "invalid_value"),
        ({"prompt": "x", "num_inference_steps": 1001}, "num_inference_steps", "invalid_value"),
        ({"prompt": "x", "guidance_scale": float("inf")}, "guidance_scale", "invalid_value"),
        ({"prompt": "x", "seed": 2**32}, "seed", "invalid_value"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "invalid_value"),
        ({"prompt": "x", "stream": "yes"}, "stream", "invalid_value"),
        ({"prompt": "x", "partial_images": 2}, "partial_images", "invalid_value"),
        ({"prompt": "x", "stream": True, "partial_images": 4}, "partial_images", "invalid_value"),
        ({"prompt": "x", "size": "2048x2048", "n": 3}, "n", "invalid_value"),
        ({"prompt": "x", "n": 11}, "n", "invalid_value"),
        ({"prompt": "x", "n": 5, "coop": {"partners": ["a"]}}, "n", "invalid_value"),
        ({"prompt": "x", "scheduler": "magic"}, "scheduler", "invalid_value"),
        ({"prompt": "x", "style": "oil"}, "style", "invalid_value"),
        ({"prompt": "x", "style": {"photo": 1e9}}, "style", "invalid_value"),
        ({"prompt": "x", "style": {"photo": "much"}}, "style", "invalid_value"),
        ({"prompt": "x", "style": {"\ud800": 1.0}}, "style.\\ud800", "unknown_parameter"),
        ({"prompt": "x", "lora_scales": {"vae": 1.0}}, "lora_scales.vae", "unknown_parameter"),
        ({"prompt": "x", "texture": {"steps": 3}}, "texture.steps", "unknown_parameter"),
        ({"prompt": "x", "texture": {"num_inference_steps": 0}}, "texture.num_inference_steps", "invalid_value"),
        ({"prompt": "x", "coop": {}}, "coop.partners", "missing_required_parameter"),
        ({"prompt": "x", "coop": {"partners": []}}, "coop.partners", "invalid_value"),
        ({"prompt": "x", "coop": {"partners": "edges"}}, "coop.partners", "invalid_value"),
        ({"prompt": "x", "coop": {"partners": ["a"], "path": "/etc"}}, "coop.path", "unknown_parameter"),
        ({"prompt": "x", "coop": {"partners": ["a"], "strength": 2}}, "coop.strength", "invalid_value"),
        ({"prompt": "x", "coop": {"partners": ["a"], "strength": [0.1, 0.2]}}, "coop", "invalid_value"),
        ({"prompt": "x", "coop": {"partners": ["a", "b"], "strength": 0.6}}, "coop", "invalid_value"),
        ({"prompt": "x", "coop": {"partners": ["a"], "bridge": {"every": 0}}}, "coop.bridge.every", "invalid_value"),
        (
            {"prompt": "x", "coop": {"partners": ["a"], "bridge": {"start": 0.5, "stop": 0.5}}},
            "coop.bridge",
            "invalid_value",
        ),
        ({"prompt": "x", "coop": {"partners": ["a"]}, "scheduler": "euler"}, "scheduler", "invalid_value"),
    ],
)
def test_the_error_names_the_field(body: dict[str, object], param: str, code: str) -> None:
    error = refusal(body)
    assert error.status == 400
    assert (error.body.error.param, error.body.error.code) == (param, code)


def test_null_means_left_out_as_the_openai_client_sends_it() -> None:
    assert parse_request({"prompt": "x", "n": None, "size": None, "user": None}) == parse_request({"prompt": "x"})


def test_an_unknown_model_is_404_and_a_long_body_413() -> None:
    error = refusal({"prompt": "x", "model": "gpt-image-1"})
    assert (error.status, error.body.error.param, error.body.error.code) == (404, "model", "model_not_found")
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps({"prompt": "x" * bounds.MAX_BODY_BYTES}).encode())
    assert caught.value.status == 413
