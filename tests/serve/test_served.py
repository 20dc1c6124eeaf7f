"""The served pair over real HTTP, on a real Ray. The last tests leave another version served."""

import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from pangu.registry import fetch_pair, resolve
from pangu.serve.deploy import deploy
from pangu.stack.prefect_api import prefect_api
from pangu.storage import read_json
from tests import subtests
from tests.dashboard import finish, press
from tests.serve.local import wait_for
from tests.serve.served_pair import Served, pangu_deploy, run_deploy

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}


def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def file_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def in_flight(served: Served) -> float:
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pangu_requests_in_flight "))


@subtests.parametrize("prompt", ["a red apple", "一个红苹果"])
def test_the_unmodified_openai_client_draws_in_both_languages(served: Served, prompt: str) -> None:
    answer = client(served).images.generate(model="pangu-pair", prompt=prompt, n=2, size="96x96")
    assert len(answer.data) == 2
    for item in answer.data:
        picture = Image.open(io.BytesIO(base64.b64decode(item.b64_json)))
        assert picture.size == (96, 96)
        assert picture.text["prompt"] == prompt
        assert picture.text["pair_version"] == str(served.first)
    extras = answer.model_extra
    assert extras["release"]["pair_version"] == served.first
    assert set(extras["seconds"]) == {"text", "structure", "texture", "decode", "total"}
    assert [model.id for model in client(served).models.list().data] == ["pangu-pair"]


def test_the_same_request_and_seed_give_the_same_bytes_and_another_seed_gives_others(served: Served) -> None:
    first, again, other = (file_of(served.draw(seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_drawn_seed_is_reported_and_draws_the_same_image_again(served: Served) -> None:
    answer = served.draw(n=2)
    second = answer.json()["data"][1]
    alone = served.draw(seed=second["seed"]).json()["data"][0]
    pixels = [_pixels(base64.b64decode(item["b64_json"])) for item in (second, alone)]
    # Two images are one batch, and a batch may round differently from a single image.
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_replicas_draw_what_the_pipeline_draws_in_one_process(served: Served) -> None:
    import torch

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

    folder = fetch_pair(served.first, served.home.root / "pair-cache")
    pipeline = PanGuDrawPipeline.from_pretrained(folder)
    alone = pipeline(
        "一个红苹果", "blurry", num_inference_steps=5, guidance_scale=4.0, generator=torch.Generator().manual_seed(3)
    ).images[0]
    options = {"negative_prompt": "blurry", "num_inference_steps": 5, "guidance_scale": 4.0, "seed": 3}
    drawn = _pixels(file_of(served.draw("一个红苹果", **options)))
    assert np.abs(drawn - np.asarray(alone).astype(int)).max() <= 1


def _pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


def test_bodies_and_paths_that_mean_nothing_are_openai_errors(served: Served) -> None:
    url = f"{served.url}/v1/images/generations"
    answers = [
        (httpx.post(url, content=b"{", headers=JSON), 400),
        (httpx.post(url, content=b"[1]", headers=JSON), 400),
        (httpx.post(url, content=b'{"prompt": "x"}'), 400),
        (httpx.post(url, content=b" " * 9_000_000, headers=JSON), 413),
        (httpx.get(url), 405),
        (httpx.get(f"{served.url}/nowhere"), 404),
        (httpx.get(f"{served.url}/v1/models/gpt-image-1"), 404),
    ]
    for answer, status in answers:
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.BadRequestError) as caught:
        client(served).images.generate(model="pangu-pair", prompt="x", size="1x1")
    assert caught.value.param == "size"


def test_more_than_it_accepts_is_429_with_retry_after_and_the_accepted_ones_are_drawn(served: Served) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: served.draw(num_inference_steps=60), range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(answers) - len(refused) < 8
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_layout_is_found_by_whichever_replica_drew_it(served: Served) -> None:
    """Two replicas, each with a cache of its own; random choice would find all eight once in 256 times."""
    asked = [{"prompt": f"layout {number}", "seed": number, "num_inference_steps": 4} for number in range(8)]
    assert not any(served.draw(**each).json()["structure_cached"] for each in asked)
    assert all(served.draw(**each, texture={"guidance_scale": 1.5}).json()["structure_cached"] for each in asked)


def test_the_work_stops_when_the_client_leaves(served: Served) -> None:
    clock = time.monotonic()
    served.draw(num_inference_steps=40)
    undisturbed_s = time.monotonic() - clock
    with pytest.raises(httpx.ReadTimeout):
        served.draw(num_inference_steps=200, timeout_s=undisturbed_s / 2)
    clock = time.monotonic()
    assert served.draw(num_inference_steps=2).status_code == 200
    assert time.monotonic() - clock < undisturbed_s
    assert in_flight(served) == 0


def test_a_client_that_leaves_a_stream_after_its_only_partial_image_is_no_error_of_the_server(served: Served) -> None:
    def errors() -> dict[str, float]:
        lines = httpx.get(f"{served.url}/metrics").text.splitlines()
        counted = [line.rsplit(" ", 1) for line in lines if line.startswith("pangu_errors_total{")]
        return {labels.split('"')[1]: float(number) for labels, number in counted}

    before = errors()
    body = {"prompt": "nobody reads this", "num_inference_steps": 120, "stream": True, "partial_images": 1}
    with httpx.stream("POST", f"{served.url}/v1/images/generations", json=body, timeout=60) as answer:
        assert next(line for line in answer.iter_lines() if line.startswith("event: ")).endswith(".partial_image")
    wait_for(lambda: in_flight(served) == 0, 20)
    left = "client_closed_request"
    wait_for(lambda: errors().get(left, 0) == before.get(left, 0) + 1, 20)
    assert errors() == before | {left: before.get(left, 0) + 1}


def test_streaming_through_the_replicas_ends_with_what_an_answer_at_once_says(served: Served) -> None:
    whole = served.draw(seed=11, num_inference_steps=6)
    events = list(
        client(served).images.generate(
            model="pangu-pair",
            prompt="a red apple",
            stream=True,
            partial_images=3,
            extra_body={"seed": 11, "num_inference_steps": 6},
        )
    )
    assert [event.type for event in events[-1:]] == ["image_generation.completed"]
    assert base64.b64decode(events[-1].b64_json) == file_of(whole)
    assert all(event.type == "image_generation.partial_image" for event in events[:-1])


def test_deploying_what_is_served_does_nothing_and_says_so(served: Served) -> None:
    outcome = deploy(served.home, "champion")
    assert outcome.already_done
    assert outcome.pair_version == served.first


@pytest.mark.long
def test_a_port_that_serve_does_not_listen_on_is_refused(served: Served) -> None:
    refused = pangu_deploy(served.second, PANGU_SERVE_PORT="9")
    assert refused.returncode == 2
    assert f"Ray Serve already runs on port {served.stack.serve_port}" in refused.stderr


@pytest.mark.long
def test_an_unreachable_ray_is_refused_with_the_remedy(served: Served) -> None:
    options = {"PANGU_SERVE_PORT": "9", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
    refused = pangu_deploy(served.second, **options)
    assert refused.returncode == 2
    assert "No Ray dashboard answers at http://127.0.0.1:9; `pangu up` starts Ray" in refused.stderr


def test_a_swap_under_load_fails_no_request_and_mixes_no_releases(served: Served) -> None:
    replicas = _replicas(served)
    options = {"seed": 5, "num_inference_steps": 4}
    before = file_of(served.draw(**options))
    answers = []
    with ThreadPoolExecutor(1) as other:
        swap = other.submit(run_deploy, served.second)
        while not swap.done():
            answers.append(served.draw(**options))
    assert swap.result()["pair_version"] == served.second
    after = file_of(served.draw(**options))
    assert before != after
    expected = {served.first: before, served.second: after}
    for answer in answers:
        assert file_of(answer) == expected[answer.json()["release"]["pair_version"]]
    assert _replicas(served) == replicas
    assert len(replicas) == served.replicas


def _replicas(served: Served) -> set[str]:
    """Ids of the replicas, new for every start: a swap changes what they hold, not which they are."""
    deployments = served.dashboard("GET").json()["applications"]["pangu"]["deployments"].values()
    return {replica["replica_id"] for deployment in deployments for replica in deployment["replicas"]}


@pytest.mark.long
def test_requests_of_a_replica_that_dies_are_drawn_again(served: Served) -> None:
    """All replicas with the texture half are killed while requests are in them; the clients wait, and get their pictures."""
    expected = _pixels(file_of(served.draw(seed=4, num_inference_steps=60)))
    title = f"ServeReplica:pangu:{served.mortal}"
    victims = [each for each in psutil.process_iter(["cmdline"]) if title in " ".join(each.info["cmdline"] or [])]
    mine = [each for each in victims if _belongs_to(each, served.stack.supervisor.pid)]
    with ThreadPoolExecutor(3) as clients:
        ways: tuple[dict[str, Any], ...] = ({}, {"stream": True, "partial_images": 3})
        jobs = [clients.submit(served.draw, seed=4, num_inference_steps=60, **ways[number % 2]) for number in range(6)]
        while not any(job.done() for job in jobs):
            time.sleep(0.01)
        for each in mine:
            each.kill()
        answers = [job.result() for job in jobs]
    assert mine
    for answer in answers:
        assert np.abs(_pixels(last_file_of(answer)) - expected).max() <= 1


def last_file_of(answer: httpx.Response) -> bytes:
    """Of an answer, or of a stream, in which no partial image may come twice."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return file_of(answer)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "image_generation.completed", events[-1]
    shown = [event["partial_image_index"] for event in events[:-1]]
    assert shown == sorted(set(shown))
    return base64.b64decode(events[-1]["b64_json"])


def _belongs_to(process: psutil.Process, ancestor: int) -> bool:
    return any(parent.pid == ancestor for parent in process.parents())


@pytest.mark.long
def test_a_canary_answers_its_share_and_a_rollback_returns_to_the_release_before(served: Served) -> None:
    """`champion` is the first version, and the second was deployed by its number."""
    run_deploy(served.second)
    run_deploy(served.first, "--canary", "0.5")
    url = f"{served.url}/v1/images/generations"

    def version(seed: int, **headers: str) -> int:
        body = {"prompt": "x", "seed": seed, "num_inference_steps": 2}
        return httpx.post(url, json=body, headers=headers, timeout=60).json()["release"]["pair_version"]

    shared = [version(seed) for seed in range(12)]
    assert set(shared) == {served.first, served.second}
    assert shared == [version(seed) for seed in range(12)]
    assert version(1, **{"X-PanGu-Release": "canary"}) == served.first
    assert version(1, **{"X-PanGu-Release": "champion"}) == served.second
    with prefect_api(served.stack) as api:
        run = press(api, "rollback-pair", {"reason": "ugly reds"}).raise_for_status().json()["id"]
        assert finish(api, run)["type"] == "COMPLETED"
    assert read_json(served.home.root / "flows" / run / "rollback.json")["pair_version"] == served.second
    assert {version(seed) for seed in range(12)} == {served.second}
    assert resolve("champion").pair_version == served.second
    assert resolve("previous").pair_version == served.first
