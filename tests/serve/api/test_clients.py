"""What OpenAI's own client and programs built on it send is drawn, or refused in one sentence that says what is possible."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from pangu.serve.api.image_urls import ImageUrls
from pangu.serve.inference.steps import LARGEST_CALL, in_parts
from pangu.serve.settings import ServeSettings
from tests.serve.local import LocalServer, serving

ALIASES = ["dall-e-2", "dall-e-3", "gpt-image-1", "owner/model:1"]


@pytest.fixture(scope="module")
def open_server(pair_folder: Path) -> Iterator[LocalServer]:
    """A server whose owner allows what clients of OpenAI's models expect."""
    with serving(pair_folder, model_aliases=ALIASES, nearest_size=True) as server:
        yield server


def client(server: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def extras(answer: Any) -> dict[str, Any]:
    return answer.model_extra or {}


def picture(width: int = 96, height: int = 96) -> bytes:
    rows = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rows).save(file, "PNG")
    return file.getvalue()


def opened(item: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


def test_fields_without_a_meaning_here_are_taken_and_named_in_the_answer(local: LocalServer) -> None:
    draw, plain = client(local).images.generate, {"model": "pangu-pair", "prompt": "a fox", "extra_body": {"seed": 3}}
    alone = draw(**plain)  # type: ignore[call-overload]
    assert extras(alone)["warnings"] == []
    noops: dict[str, Any] = {"style": "natural", "background": "transparent", "complexity": "high"}
    for name, value in noops.items():
        answer = draw(**plain, **{name: value})  # type: ignore[call-overload]
        (warning,) = extras(answer)["warnings"]
        assert warning.startswith(name) and answer.data[0].b64_json == alone.data[0].b64_json
        assert answer.background == "opaque"
    silent = {"moderation": "low", "user": "me", "safety_identifier": "id", "output_compression": 100, "n": 1}
    answer = draw(**plain, **silent, size="auto", output_format="png", response_format="b64_json", partial_images=0)  # type: ignore[call-overload]
    assert answer.data[0].b64_json == alone.data[0].b64_json and extras(answer)["warnings"] == []
    streamed = list(draw(**plain, style="vivid", stream=True, partial_images=1))  # type: ignore[call-overload]
    assert extras(streamed[-1])["warnings"]


def test_every_quality_of_openai_changes_the_steps_and_nothing_else(local: LocalServer) -> None:
    steps = {
        quality: extras(client(local).images.generate(model="pangu-pair", prompt="a fox", quality=quality))[
            "num_inference_steps"
        ]
        for quality in ("low", "medium", "standard", "auto", "high", "hd", "xhigh", "max")
    }  # type: ignore[call-overload]
    assert list(steps.values()) == [2, 4, 4, 4, 8, 8, 12, 16]


def test_ten_images_are_drawn_as_they_are_alone_and_others_get_their_turn_meanwhile(local: LocalServer) -> None:
    answers: list[Any] = []

    def ten() -> None:
        answers.append(
            client(local).images.generate(
                model="pangu-pair", prompt="a fox", n=10, extra_body={"seed": 5, "num_inference_steps": 40}
            )
        )

    many = threading.Thread(target=ten)
    many.start()
    while local.metric("pangu_requests_in_flight ") == 0:
        time.sleep(0.01)
    assert local.draw("a quick one", seed=1, num_inference_steps=2).status_code == 200
    assert not answers
    many.join()
    data = answers[0].data
    assert [extras(item)["seed"] for item in data] == list(range(5, 15))
    alone = client(local).images.generate(
        model="pangu-pair", prompt="a fox", extra_body={"seed": 13, "num_inference_steps": 40}
    )
    difference = np.asarray(opened(data[8]), int) - np.asarray(opened((alone.data or [])[0]), int)
    assert np.abs(difference).max() <= 1


def test_a_large_batch_is_asked_in_equal_parts_that_give_what_the_whole_gives() -> None:
    import torch

    sizes: list[int] = []

    def network(*batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch[0]))
        return batch[0] + batch[1][:, None]

    batch = torch.randn(LARGEST_CALL * 2 + 3, 4), torch.arange(LARGEST_CALL * 2 + 3.0)
    assert torch.equal(in_parts(network, LARGEST_CALL)(*batch), batch[0] + batch[1][:, None])
    assert max(sizes) <= LARGEST_CALL and max(sizes) - min(sizes) <= 2 and len(sizes) == 3


def test_names_that_the_owner_declares_are_listed_and_drawn_and_others_are_not(
    local: LocalServer, open_server: LocalServer
) -> None:
    models = client(open_server).models
    assert [model.id for model in models.list().data] == ["pangu-pair", *ALIASES]
    assert models.retrieve("owner/model:1").id == "owner/model:1"
    for name in ALIASES:
        assert client(open_server).images.generate(model=name, prompt="a fox").data
    assert client(open_server).images.generate(prompt="a fox").data
    for wrong, server in (("dall-e-3", local), ("dall-e-4", open_server)):
        with pytest.raises(openai.NotFoundError) as caught:
            client(server).images.generate(model=wrong, prompt="a fox")
        assert caught.value.code == "model_not_found"


def test_a_size_that_is_not_drawn_becomes_the_nearest_one_only_where_the_owner_allows_it(
    local: LocalServer, open_server: LocalServer
) -> None:
    for size in ("512x512", "1792x1024"):
        answer = client(open_server).images.generate(
            model="dall-e-3", prompt="a fox", size=size, response_format="b64_json"
        )  # type: ignore[call-overload]
        assert answer.size == "96x96" and opened(answer.data[0]).size == (96, 96)
        assert size in extras(answer)["warnings"][0] and "96x96" in extras(answer)["warnings"][0]
        assert extras(answer)["request"]["size"] == "96x96"
    edited = client(open_server).images.edit(model="gpt-image-1", prompt="a fox", image=("a.png", picture(300, 200)))
    assert opened((edited.data or [])[0]).size == (96, 96)
    masked = client(open_server).images.edit(
        model="gpt-image-1", prompt="a fox", image=picture(200, 200), mask=transparent(200), size="1024x1024"
    )
    assert opened((masked.data or [])[0]).size == (96, 96)
    with pytest.raises(openai.BadRequestError) as caught:
        client(local).images.generate(model="pangu-pair", prompt="a fox", size="512x512")
    assert caught.value.param == "size" and "draws 96x96" in str(caught.value)


def transparent(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (side, side)).save(file, "PNG")
    return file.getvalue()


def test_names_of_dall_e_answer_with_urls_unless_asked_otherwise(open_server: LocalServer) -> None:
    """LangChain's and LibreChat's DALL-E tools send no response_format and read `url`."""
    asked: dict[str, Any] = {"prompt": "a fox", "n": 1, "size": "1024x1024", "quality": "standard", "style": "vivid"}
    item = (client(open_server).images.generate(model="dall-e-3", **asked).data or [])[0]
    assert item.b64_json is None and item.url is not None and item.url.endswith(".png")
    fetched = httpx.get(item.url)
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(fetched.content)).size == (96, 96)
    data = client(open_server).images.generate(model="dall-e-3", response_format="b64_json", **asked).data or []
    assert data[0].b64_json and not data[0].url
    data = client(open_server).images.generate(model="gpt-image-1", **asked).data or []
    assert data[0].b64_json and not data[0].url
    lost = httpx.get(f"{open_server.url}/v1/images/files/guessed.png")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")


def test_image_urls_last_as_long_as_the_owner_says() -> None:
    file, base = picture(), "http://host:1/"
    data_url = ImageUrls(ServeSettings(url_s=0)).url_of(file, "webp", base)
    assert base64.b64decode(data_url.removeprefix("data:image/webp;base64,")) == file
    clock = [100.0]
    files = ImageUrls(ServeSettings(url_s=60, public_url="https://host/images"), now=lambda: clock[0])
    url = files.url_of(file, "jpeg", base)
    assert url.startswith("https://host/images/v1/images/files/") and url.endswith(".jpg")
    name = url.rsplit("/", 1)[1]
    assert files.find(name) == (file, "image/jpeg")
    clock[0] += 61
    assert files.find(name) is None


def test_edits_take_what_clients_send_and_refuse_in_one_sentence_what_is_not_possible(local: LocalServer) -> None:
    edit = client(local).images.edit
    asked: dict[str, Any] = {"model": "pangu-pair", "prompt": "a fox"}
    fields: dict[str, Any] = {"input_fidelity": "high", "quality": "auto", "size": "auto", "background": "auto", "n": 2}
    answer = edit(**asked, image=[("a.png", picture())], **fields, extra_body={"style": "vivid", "seed": 1})
    assert len(answer.data or []) == 2
    assert [warning.split(" ")[0] for warning in extras(answer)["warnings"]] == ["style", "input_fidelity"]
    as_json = edit(**asked, image=picture(), extra_body={"style": '{"photo": 1.0}', "seed": 1})
    assert extras(as_json)["request"]["style"] == {"photo": 1.0}
    for change, param, says in (
        (
            {"image": [("a.png", picture()), ("b.png", picture())]},
            "image",
            "2 images were sent, but this model edits one",
        ),
        ({"image": picture(), "mask": picture()}, "mask", "no transparent area"),
        ({"image": picture(), "output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"image": picture(), "extra_body": {"texture": {"prompt": "ice"}}}, "texture", "edits do not take it"),
    ):
        with pytest.raises(openai.BadRequestError, match=says) as caught:
            edit(**asked, **change)
        assert caught.value.param == param


def test_a_variation_keeps_the_layout_and_each_seed_gives_another(local: LocalServer) -> None:
    drawn = client(local).images.create_variation(image=("a.png", picture()), model="pangu-pair", n=2)
    first, second = (np.asarray(opened(item).convert("RGB"), int) for item in drawn.data or [])
    assert np.abs(first - second).max() > 0
    refused = httpx.post(
        f"{local.url}/v1/images/variations", data={"prompt": "a fox"}, files={"image": picture()}, timeout=60
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
