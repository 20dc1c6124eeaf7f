"""Images that nudenet finds more in than the settings allow are drawn and not shown: over HTTP, with the starter pair.

No picture of this project is indecent, so faces are what is not shown here: the embedded pair draws some that nudenet knows.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import openai
import pytest
import torch
from PIL import Image

from pangu.pipelines.assemble import save_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.serve.inference.moderation import Moderator
from pangu.serve.settings import BodyPart, ModerationSettings
from pangu.starter.pair import starter_pair
from tests.pipelines.coop import small
from tests.serve.local import LocalServer, serving

FACE: dict[str, Any] = {"prompt": "smiling face", "seed": 0, "num_inference_steps": 20}
SECOND_IS_A_FACE: dict[str, Any] = {"prompt": "student", "seed": 4, "n": 2, "num_inference_steps": 20}
TREE: dict[str, Any] = {"prompt": "tree", "seed": 0, "num_inference_steps": 20}


@pytest.fixture(scope="module")
def pair() -> PanGuDrawPipeline:
    pair = starter_pair()
    pair.set_progress_bar_config(disable=True)
    return pair


@pytest.fixture(scope="module")
def shy(pair: PanGuDrawPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that shows no faces."""
    folder: Path = tmp_path_factory.mktemp("shy")
    save_pair(pair, folder / "pair")
    small.stable_diffusion(seed=3).save_pretrained(folder / "partner")
    moderation = {"max_score": 0.48, "parts": ["FACE_FEMALE", "FACE_MALE"]}
    coop = {"partners": {"style": {"source": str(folder / "partner")}}}
    with serving(folder / "pair", moderation=moderation, coop=coop) as server:
        yield server


@pytest.fixture(scope="module")
def face(pair: PanGuDrawPipeline) -> Image.Image:
    seed = torch.Generator().manual_seed(0)
    return pair("smiling face", num_inference_steps=20, generator=seed).images[0]


def client(shy: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shy.url}/v1", api_key="none", max_retries=0, timeout=60)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json().get("error", {})
    return answer.status_code, error.get("type", ""), error.get("code", "")


BLOCKED = (400, "image_generation_user_error", "moderation_blocked")


def test_a_flagged_image_is_refused_as_openai_does_it_and_counted(shy: LocalServer) -> None:
    before = shy.metric('pangu_images_withheld_total{kind="result"}')
    assert refusal(shy.draw(**FACE)) == BLOCKED
    with pytest.raises(openai.BadRequestError) as caught:
        client(shy).images.generate(model="pangu-pair", prompt="smiling face", extra_body=FACE)
    assert caught.value.code == "moderation_blocked"
    assert shy.metric('pangu_images_withheld_total{kind="result"}') == before + 2


def test_another_image_of_the_same_server_is_shown_and_says_how_long_it_was_looked_at(shy: LocalServer) -> None:
    answer = shy.draw(**TREE)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["seconds"]) == {"text", "structure", "texture", "decode", "moderation", "total"}


def test_of_several_images_only_the_flagged_one_is_withheld(shy: LocalServer) -> None:
    answer = client(shy).images.generate(model="pangu-pair", prompt="student", n=2, extra_body=SECOND_IS_A_FACE)
    shown, hidden = answer.data or []
    assert shown.b64_json
    assert hidden.b64_json is None
    assert (hidden.model_extra or {})["error"]["code"] == "moderation_blocked"
    assert (hidden.model_extra or {})["seed"] == 5


def test_a_stream_shows_neither_the_flagged_result_nor_flagged_partial_images(shy: LocalServer) -> None:
    events = []
    with pytest.raises(openai.APIError, match="may not be shown"):
        for event in client(shy).images.generate(
            model="pangu-pair", prompt="student", n=2, stream=True, partial_images=3, extra_body=SECOND_IS_A_FACE
        ):
            events.append(event)
    assert events[-1].type == "image_generation.completed"
    assert (events[-1].model_extra or {})["image_index"] == 0
    before = shy.metric('pangu_images_withheld_total{kind="partial"}')
    with pytest.raises(openai.APIError, match="may not be shown"):
        list(
            client(shy).images.generate(
                model="pangu-pair", prompt="smiling face", stream=True, partial_images=3, extra_body=FACE
            )
        )
    assert shy.metric('pangu_images_withheld_total{kind="partial"}') > before


@pytest.mark.long
def test_edits_and_cooperation_are_looked_at_too(shy: LocalServer, face: Image.Image) -> None:
    file = io.BytesIO()
    face.save(file, "PNG")
    asked = {name: str(value) for name, value in FACE.items()}
    edited = httpx.post(f"{shy.url}/v1/images/edits", data=asked, files={"image": file.getvalue()}, timeout=60)
    assert refusal(edited) == BLOCKED
    assert refusal(shy.draw(**FACE, coop={"partners": ["style"], "strength": 0.0})) == BLOCKED


def test_an_image_is_shown_where_its_parts_do_not_count(face: Image.Image) -> None:
    assert Moderator(ModerationSettings(max_score=0.4, parts=("FACE_FEMALE",))).withholds(face)
    assert not Moderator(ModerationSettings(max_score=0.4)).withholds(face)
    assert not Moderator().withholds(face)


def test_the_parts_of_the_settings_are_the_classes_of_nudenet() -> None:
    from nudenet import nudenet

    assert set(get_args(BodyPart)) == set(vars(nudenet)["__labels"])
    assert ModerationSettings().max_score is None
