"""Drawing over real HTTP as users do: OpenAI's own client, at once and streaming, extensions, edits, facts."""

import asyncio
import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.api import build_api
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.pool import preview_steps
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests import subtests
from tests.serve.local import LocalServer, answering, serving, wait_for

CLIENT: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60}


def client(local: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", **CLIENT)


def file_of(answer: httpx.Response, index: int = 0) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][index]["b64_json"])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


def edit(local: LocalServer, image: bytes, **fields: Any) -> httpx.Response:
    data = {"prompt": "a fox", **{name: str(value) for name, value in fields.items()}}
    return httpx.post(f"{local.url}/v1/images/edits", data=data, files={"image": ("a.png", image)}, timeout=60)


def test_the_unmodified_client_draws_and_the_file_says_how(local: LocalServer) -> None:
    answer = client(local).images.generate(model="pangu-pair", prompt="一只狐狸", n=2, size="96x96", quality="low")
    for index, item in enumerate(answer.data or []):
        picture = Image.open(io.BytesIO(base64.b64decode(item.b64_json or "")))
        assert picture.size == (96, 96)
        facts = picture.text  # type: ignore[attr-defined]
        assert facts["prompt"] == "一只狐狸"
        assert int(facts["seed"]) == (answer.model_extra or {})["seed"] + index
        assert {"pair_version", "structure_version", "texture_version", "scheduler"} <= set(facts)
    extras = answer.model_extra or {}
    assert extras["num_inference_steps"] == 2  # half of the four that the release prefers
    assert {"text", "structure", "texture", "decode", "total"} == set(extras["seconds"])


def test_the_asynchronous_client_draws_several_at_once(local: LocalServer) -> None:
    async def draw() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{local.url}/v1", **CLIENT) as own:
            names = ("fox", "lemon", "apple")
            calls = (own.images.generate(model="pangu-pair", prompt=name, extra_body={"seed": 1}) for name in names)
            return list(await asyncio.gather(*calls))

    answers = asyncio.run(draw())
    assert len({answer.data[0].b64_json for answer in answers}) == 3


def test_a_stream_shows_partial_images_and_ends_with_the_answers_own_bytes(local: LocalServer) -> None:
    asked: dict[str, Any] = {"model": "pangu-pair", "prompt": "a new lemon"}
    extra = {"seed": 3, "num_inference_steps": 8}
    events = list(client(local).images.generate(**asked, stream=True, partial_images=3, extra_body=extra))
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1, 2]  # type: ignore[union-attr]
    for event in events:
        assert Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size == (96, 96)
    whole = file_of(local.draw("a new lemon", **extra))
    assert base64.b64decode(events[-1].b64_json) == whole
    last = [np.abs(pixels(base64.b64decode(event.b64_json)) - pixels(whole)).mean() for event in events]
    assert last[2] < last[0]


def streamed(local: LocalServer, path: str, **asked: Any) -> list[dict[str, Any]]:
    """The events of a request to `path`."""
    answer = httpx.post(f"{local.url}/v1/images/{path}", timeout=60, **asked)
    assert answer.status_code == 200, answer.text
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def indices(events: list[dict[str, Any]]) -> list[int]:
    assert events[-1]["type"].endswith(".completed")
    return [event["partial_image_index"] for event in events[:-1]]


@pytest.mark.long
@subtests.parametrize("wanted", [1, 2, 3])
def test_as_many_partial_images_as_asked_for_come_wherever_the_walk_begins(local: LocalServer, wanted: int) -> None:
    asked: dict[str, Any] = {"seed": 70 + wanted, "num_inference_steps": 8, "prompt": "partials"}
    watched = asked | {"stream": True, "partial_images": wanted}
    retimed = {"texture": {"num_inference_steps": 12}}
    # From noise, and from noise with other steps below the boundary; then both from the cache, and an edit.
    for more in ({}, {"seed": 80 + wanted} | retimed):
        for cached in (False, True):
            events = streamed(local, "generations", json=watched | more)
            assert events[-1]["structure_cached"] == cached
            assert indices(events) == list(range(wanted))
            assert len({event["b64_json"] for event in events}) == wanted + 1
    source = file_of(local.draw(seed=2))
    form = {name: str(value) for name, value in watched.items()} | {"stream": "true"}
    assert indices(streamed(local, "edits", data=form, files={"image": ("a.png", source)})) == list(range(wanted))


def test_partial_images_are_spread_over_all_steps_but_the_last() -> None:
    for steps in range(1, 60):
        for wanted in range(4):
            places = preview_steps(steps, wanted)
            assert len(places) == min(wanted, steps - 1)
            assert all(0 < place < steps for place in places)
            gaps = np.diff([0, *places, steps])
            assert gaps.max() - gaps.min() <= 1 or wanted > steps - 1


def test_a_refused_stream_is_refused_with_its_status(local: LocalServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(local).images.generate(model="pangu-pair", prompt="x", size="1024x1024", stream=True)
    assert caught.value.param == "size"


@subtests.parametrize("options", [{}, {"scheduler": "euler_ancestral"}, {"style": {"photo": 1.5}}])
def test_the_same_request_gives_the_same_bytes(local: LocalServer, options: dict[str, Any]) -> None:
    first, again, other = (file_of(local.draw(seed=seed, n=2, **options)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_server_draws_what_the_pipeline_draws(local: LocalServer) -> None:
    pair = PanGuDrawPipeline.from_pretrained(local.folder)
    pair.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 4.0}
    alone = pair("a fox", "blurry", generator=seed, styles={"cartoon": 2.0}, **options).images[0]
    drawn = local.draw("a fox", negative_prompt="blurry", seed=3, style={"cartoon": 2.0}, **options)
    assert np.array_equal(pixels(file_of(drawn)), np.asarray(alone).astype(int))


@subtests.parametrize("scheduler", ["ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "unipc"])
def test_every_scheduler_draws_and_is_named(local: LocalServer, scheduler: str) -> None:
    answer = local.draw(seed=1, scheduler=scheduler, num_inference_steps=5)
    assert answer.status_code == 200, answer.text
    assert answer.json()["num_inference_steps"] == 5
    assert answer.json()["scheduler"].lower().startswith(scheduler.split("_")[0].replace("dpmpp", "dpmsolver"))


def test_a_changed_texture_half_keeps_the_layout_and_is_rendered_from_the_cache(local: LocalServer) -> None:
    base = {"prompt": "one layout", "seed": 21, "num_inference_steps": 8}
    whole = local.draw(**base)
    for texture in ({"style": {"photo": 2.0}}, {"num_inference_steps": 12}, {"guidance_scale": 1.0}):
        fresh = local.draw(**base, texture=texture)
        assert fresh.json()["structure_cached"]
        assert file_of(fresh) != file_of(whole)
        assert fresh.json()["data"] == local.draw(**base, texture=texture).json()["data"]
    assert not local.draw(**base | {"seed": 22}).json()["structure_cached"]


def test_what_the_cache_gives_is_what_would_have_been_drawn(local: LocalServer, pair_folder: Any) -> None:
    base = {"prompt": "cache or not", "seed": 5, "scheduler": "euler_ancestral", "num_inference_steps": 6}
    local.draw(**base)
    from_cache = local.draw(**base, texture={"style": {"photo": 1.0}})
    with serving(pair_folder, cache_bytes=0) as without:
        drawn = without.draw(**base, texture={"style": {"photo": 1.0}})
    assert from_cache.json()["structure_cached"]
    assert not drawn.json()["structure_cached"]
    assert file_of(from_cache) == file_of(drawn)


def test_an_edit_keeps_the_image_that_it_refines_and_draws_only_texture(local: LocalServer) -> None:
    source = file_of(local.draw("a lemon", seed=2, num_inference_steps=8))
    answer = edit(local, source, num_inference_steps=8, seed=1)
    assert answer.json()["seconds"]["structure"] == 0
    near = np.abs(pixels(file_of(answer)) - pixels(source)).mean()
    far = np.abs(pixels(file_of(local.draw("a fox", seed=1, num_inference_steps=8))) - pixels(source)).mean()
    assert near < far
    assert file_of(edit(local, source, num_inference_steps=8, seed=1)) == file_of(answer)


def test_the_unmodified_client_edits_at_once_and_streaming(local: LocalServer) -> None:
    source = file_of(local.draw(seed=2))
    asked: dict[str, Any] = {"model": "pangu-pair", "prompt": "a fox", "image": ("a.png", source)}
    answer = client(local).images.edit(**asked, n=2, extra_body={"seed": 3, "style": {"photo": 1.0}})
    assert len(answer.data or []) == 2
    extra = {"seed": 3, "num_inference_steps": 8}
    events = list(client(local).images.edit(**asked, stream=True, partial_images=2, extra_body=extra))
    assert events[-1].type == "image_edit.completed"
    assert {event.type for event in events[:-1]} == {"image_edit.partial_image"}


@subtests.parametrize(
    ("change", "param"),
    [
        ({"size": "64x64"}, "size"),
        ({"n": 99}, "n"),
        ({"n": "many"}, "n"),
        ({"colour": "red"}, "colour"),
        ({"texture": "{}"}, "texture"),
        ({"style[oil]": 1}, "style"),
    ],
)
def test_a_bad_field_of_an_edit_is_named(local: LocalServer, change: dict[str, Any], param: str) -> None:
    answer = edit(local, file_of(local.draw(seed=2)), **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_what_is_no_image_of_the_right_size_is_refused(local: LocalServer) -> None:
    small = io.BytesIO()
    Image.new("RGB", (48, 48)).save(small, "PNG")
    for file in (b"hello", small.getvalue(), file_of(local.draw(seed=2))[:300], b""):
        answer = edit(local, file)
        assert (answer.status_code, answer.json()["error"]["param"]) in ((400, "image"), (400, "size")), answer.text
    missing = httpx.post(f"{local.url}/v1/images/edits", data={"prompt": "x"}, files={"other": b"x"})
    assert missing.json()["error"]["param"] == "other"


@subtests.parametrize("output_format", ["png", "jpeg", "webp"])
def test_every_output_format_is_that_format(local: LocalServer, output_format: str) -> None:
    answer = local.draw(output_format=output_format, response_format="url", seed=1)
    image = httpx.get(answer.json()["data"][0]["url"])
    assert image.headers["content-type"] == f"image/{output_format}"
    assert Image.open(io.BytesIO(image.content)).format == output_format.upper()


def test_requests_of_many_kinds_share_calls_and_a_batched_result_is_within_a_level(local: LocalServer) -> None:
    asked = [
        {"seed": 40 + index, "num_inference_steps": 10 + 3 * index, "guidance_scale": 2.0 + index} for index in range(4)
    ]
    alone = [file_of(local.draw(f"thing {index}", **each)) for index, each in enumerate(asked)]
    calls = local.metric('pangu_step_batch_size_sum{pool="texture"}')
    with ThreadPoolExecutor(4) as clients:
        jobs = [clients.submit(local.draw, f"other {index}", **each) for index, each in enumerate(asked)]
        together = [clients.submit(local.draw, f"thing {index}", **each) for index, each in enumerate(asked)]
        [job.result() for job in jobs]
        files = [file_of(job.result()) for job in together]
    assert (
        local.metric('pangu_step_batch_size_sum{pool="texture"}') - calls > 8.5
    )  # eight requests, and company for some
    for one, other in zip(alone, files, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_more_than_is_accepted_is_429_at_once_and_the_accepted_are_drawn(pair_folder: Any) -> None:
    with serving(pair_folder, max_in_flight=2) as server, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda seed: server.draw(seed=seed, num_inference_steps=40), range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 2 <= len(answers) - len(refused) < 8
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_deadline_is_kept_and_the_work_behind_it_stops(pair_folder: Any) -> None:
    with serving(pair_folder, timeout_s=1.0) as server:
        keeps_its_deadline(server, n=4)


def keeps_its_deadline(server: Any, **asked: Any) -> None:
    """What takes longer is told so, and holds nobody up whose own picture fits into the deadline. server: any that draws."""
    answer = server.draw(num_inference_steps=200, **asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    wait_for(lambda: server.metric("pangu_requests_in_flight ") == 0, 5)
    assert server.draw(num_inference_steps=2).status_code == 200


@subtests.parametrize("stream", [False, True])
def test_the_work_stops_when_the_client_leaves(local: LocalServer, stream: bool) -> None:
    started = time.monotonic()
    local.draw("nobody waits", seed=1, num_inference_steps=30)
    thirty_steps_s = time.monotonic() - started
    body = {"prompt": "nobody waits", "num_inference_steps": 200, "stream": stream, "partial_images": 3 * stream}
    counted = local.metric('pangu_errors_total{code="client_closed_request"')
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{local.url}/v1/images/generations", json=body, timeout=thirty_steps_s / 3)
    wait_for(lambda: local.metric("pangu_requests_in_flight ") == 0, 3 * thirty_steps_s + 2)
    assert local.metric('pangu_errors_total{code="client_closed_request"') == counted + 1
    started = time.monotonic()
    assert local.draw(num_inference_steps=2).status_code == 200
    assert time.monotonic() - started < 3 * thirty_steps_s + 2


def test_a_server_that_holds_no_release_yet_says_when_to_come_back() -> None:
    metrics = Metrics()
    with answering(build_api(RequestEngine({}, ServeSettings(retry_after_s=7), metrics), metrics)) as url:
        answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": "x"})
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "7"


def test_a_server_that_is_told_to_stop_finishes_what_it_accepted(pair_folder: Any) -> None:
    with ThreadPoolExecutor(1) as clients:
        with serving(pair_folder) as server:
            job = clients.submit(server.draw, seed=1, num_inference_steps=60)
            wait_for(lambda: server.metric("pangu_requests_in_flight ") == 1)
            assert not job.done()
        assert job.result().status_code == 200


def test_nothing_is_drawn_by_a_release_that_is_not_there(local: LocalServer) -> None:
    answer = local.draw(headers={"X-PanGu-Release": "canary"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-PanGu-Release")
    assert local.draw(seed=1, headers={"X-PanGu-Release": "champion"}).status_code == 200
    assert local.draw(headers={"X-PanGu-Release": "newest"}).status_code == 400
