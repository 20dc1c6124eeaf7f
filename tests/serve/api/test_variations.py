"""Variations that a declared partner draws along, over real HTTP: as the pipeline does, by any client, refused in a sentence."""

import base64
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from pangu.pipelines import CoopPipeline, Partner
from pangu.pipelines.coop.loading import load_pipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.inference.image_encoding import facts_in
from pangu.serve.settings import CoopSettings
from tests import subtests
from tests.pipelines.coop import small
from tests.serve.local import LocalServer, serving
from tests.serve.test_documentation import written

STEPS, SEED = 4, 5


@pytest.fixture(scope="module")
def partners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One that varies an image, one that hears text, and one under a ControlNet."""
    folder = tmp_path_factory.mktemp("partners")
    small.image_variation(seed=3).save_pretrained(folder / "variation")
    pipe = small.stable_diffusion(seed=4)
    pipe.save_pretrained(folder / "plain")
    small.controlnet(pipe.unet).save_pretrained(folder / "edges")
    plain = str(folder / "plain")
    return {
        "like": {"source": str(folder / "variation"), "varies_image": True},
        "style": {"source": plain},
        "edges": {"source": plain, "controlnets": [str(folder / "edges")]},
    }


@pytest.fixture(scope="module")
def server(pair_folder: Path, partners: dict[str, Any]) -> Iterator[LocalServer]:
    """Whose variations are drawn along by `like` where a request says nothing."""
    with serving(pair_folder, coop={"partners": partners, "variations": "like"}) as running:
        yield running


def photo(colour: str, kind: str = "JPEG") -> bytes:
    """Of a size that nobody draws."""
    file = io.BytesIO()
    picture = Image.new("RGB", (90, 60), "white")
    picture.paste(Image.new("RGB", (40, 40), colour), (10, 10))
    picture.save(file, kind)
    return file.getvalue()


def vary(server: LocalServer, image: bytes, **fields: Any) -> httpx.Response:
    asked = {"seed": SEED, "num_inference_steps": STEPS, **fields}
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
    return httpx.post(f"{server.url}/v1/images/variations", data=form, files={"image": image}, timeout=60)


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return opened(answer.json()["data"][0]["b64_json"])


def opened(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


@subtests.parametrize("prompt", ["a red apple", None])
@pytest.mark.long
def test_a_partner_varies_the_image_and_the_text_says_what_happens_in_it_as_in_the_pipeline(
    server: LocalServer, partners: dict[str, Any], prompt: str | None
) -> None:
    worded = {} if prompt is None else {"prompt": prompt}
    answer = vary(server, photo("blue"), coop={"partners": ["like"], "strength": 0.7}, **worded)
    partner = Partner(
        load_pipeline(partners["like"]["source"]), strength=0.7, image=Image.open(io.BytesIO(photo("blue")))
    )
    together = CoopPipeline(PanGuDrawPipeline.from_pretrained(server.folder), partner)
    together.set_progress_bar_config(disable=True)
    alone = together(
        prompt or "",
        num_inference_steps=STEPS,
        guidance_scale=answer.json()["guidance_scale"],
        generator=torch.Generator().manual_seed(SEED),
        height=96,
        width=96,
    ).images[0]
    assert np.abs(pixels(answer) - np.asarray(alone).astype(int)).max() <= 1
    other = vary(server, photo("yellow"), coop={"partners": ["like"], "strength": 0.7}, **worded)
    assert np.abs(pixels(other) - pixels(answer)).max() > 1
    body = answer.json()["request"]
    assert body.get("prompt") == prompt and answer.json()["partners"] == ["like"]
    assert vary(server, photo("blue"), **body).json()["data"] == answer.json()["data"]
    facts = facts_in(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert json.loads(facts["request"]) == body and len(facts["image_sha256"]) == 64


def test_the_unmodified_client_is_drawn_by_the_partner_of_the_server_unless_it_asks_for_the_texture_half(
    server: LocalServer,
) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)

    def drawn(**said: Any) -> Any:
        asked = {"seed": SEED, "num_inference_steps": STEPS, **said}
        return client.images.create_variation(image=("a.png", photo("blue", "PNG")), extra_body=asked)

    usual = drawn()
    same = vary(server, photo("blue", "PNG"), coop={"partners": ["like"], "strength": 0.5})
    assert usual.model_extra["partners"] == ["like"]
    assert np.array_equal(opened(usual.data[0].b64_json), pixels(same))
    # An object inside a form, as this client spells it.
    spelled = drawn(coop={"partners": ["like"], "strength": 0.5, "bridge": {"every": 1}})
    assert spelled.data[0].b64_json == usual.data[0].b64_json
    weaker = drawn(coop={"partners": ["like"], "strength": 0.1})
    assert np.abs(opened(weaker.data[0].b64_json) - opened(usual.data[0].b64_json)).max() > 1
    alone = client.images.create_variation(
        image=("a.png", Path(__file__).parents[3].joinpath("docs/studio.png").read_bytes()),
        extra_body={"size": "96x96"},
    )
    assert alone.model_extra["partners"] == ["like"], "of any size"
    refined = client.images.edit(prompt="a fox", image=("a.png", resized()), extra_body={"seed": SEED})
    by_texture = client.images.create_variation(image=("a.png", resized()), extra_body={"strength": 0.5})
    assert refined.model_extra["partners"] == by_texture.model_extra["partners"] == []


def resized() -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(photo("blue"))).resize((96, 96)).save(file, "PNG")
    return file.getvalue()


def test_a_stream_of_a_variation_ends_with_the_bytes_of_the_answer(server: LocalServer) -> None:
    streamed = vary(server, photo("red"), stream=True, partial_images=2)
    whole = vary(server, photo("red")).json()["data"][0]["b64_json"]
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert events[-1]["b64_json"] == whole and events[-1]["partners"] == ["like"]


def test_the_curl_example_of_the_page_runs(server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(photo("orange", "PNG"))
    code = written("sh")[1].replace("http://127.0.0.1:8000", server.url)
    subprocess.run(["bash", "-euc", code], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "variation.json").read_text())["request"]["prompt"] == "wearing a red hat"


LIKE = {"partners": ["like"]}


@subtests.parametrize(
    ("image", "fields", "param", "says"),
    [
        (photo("red"), {"coop": {"partners": ["style"]}}, "coop.partners", "none of them varies an image"),
        (photo("red"), {"coop": {"partners": ["nobody"]}}, "coop.partners", "is not served"),
        (
            photo("red"),
            {"coop": {"partners": ["like", "edges"], "strength": 0.3}},
            "coop.control_image",
            "'edges' needs",
        ),
        (photo("red"), {"coop": LIKE, "strength": 0.5}, "strength", "variations by a partner do not take it"),
        (photo("red"), {"strength": 0.5, "prompt": "x"}, "prompt", "variations by the texture half do not take it"),
        (photo("red"), {"coop": LIKE, "texture": {"prompt": "x"}}, "texture", "variations do not take it"),
        (photo("red"), {"coop": LIKE, "enhance": True}, "enhance", "variations without a prompt"),
        (photo("red"), {"coop": LIKE, "n": 5}, "n", "at most 4"),
        (photo("red"), {"coop": {"strength": 0.5}}, "coop.partners", "Missing"),
        (photo("red", "PNG")[:100], {"coop": LIKE}, "image", "damaged"),
        (b"no picture", {}, "image", "it is no PNG, JPEG, WEBP image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_can_not_be_varied_is_refused_in_one_sentence(
    server: LocalServer, image: bytes, fields: dict[str, Any], param: str, says: str
) -> None:
    answer = vary(server, image, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and says in error["message"], error


def test_what_varies_is_listed_and_only_such_a_partner_can_be_the_usual_one(
    server: LocalServer, partners: dict[str, Any]
) -> None:
    assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["varying_partners"] == ["like"]
    for name in ("style", "nobody"):
        with pytest.raises(ValueError, match="the partners with varies_image are like"):
            CoopSettings.model_validate({"partners": partners, "variations": name})
