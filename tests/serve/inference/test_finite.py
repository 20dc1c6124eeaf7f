"""What is not finite is an error of the server, never a black picture."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from pangu.errors import NotFinite
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import tiny
from pangu.serve.api import build_api
from pangu.serve.inference.image_encoding import finite_images
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import Release, ReleaseRouting
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests import subtests

RELEASE = Release(pair_version=1, structure_version=1, texture_version=1, sha256="0", created=0, folder=Path("x"))


@contextmanager
def engine_whose(broken: str) -> Iterator[LocalEngine]:
    """An engine over an untrained pair, one component of which holds only NaN."""
    pair = untrained_pair(tiny())
    pair.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for parameter in pair.components[broken].parameters():
            parameter.fill_(float("nan"))
    engine = LocalEngine(ServeSettings(cache_bytes=0), Metrics(), load=lambda release, part: pair)
    engine.routing = ReleaseRouting(champion=RELEASE)
    yield engine
    engine.close()


def asked(engine: LocalEngine, metrics: Metrics, **fields: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build_api(engine, metrics))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            body = {"prompt": "x", "num_inference_steps": 8, "seed": 1, **fields}
            return await client.post("/v1/images/generations", json=body)

    return asyncio.run(ask())


@subtests.parametrize("broken", ["structure", "texture", "vae"])
def test_a_model_that_gives_nan_is_answered_with_500_and_shows_no_partial_image_of_it(broken: str) -> None:
    metrics = Metrics()
    with engine_whose(broken) as engine:
        answers = [asked(engine, metrics), asked(engine, metrics, stream=True, partial_images=3)]
    # In the stream what was well above the boundary is shown.
    events = [json.loads(line[6:]) for line in answers[1].text.splitlines() if line.startswith("data: ")]
    kinds = [event["type"] for event in events[:-1]]
    assert kinds == (["image_generation.partial_image"] * 2 if broken == "texture" else [])
    for error in (answers[0].json()["error"], (events[-1] if events else answers[1].json())["error"]):
        assert error["code"] == "not_finite"
        assert "not finite" in error["message"]
    assert [answer.status_code for answer in answers] == [500, 200 if events else 500]
    exposition = metrics.exposition()[0].decode()
    assert 'pangu_errors_total{code="not_finite",status="500"} 2.0' in exposition
    assert "pangu_images_total 0.0" in exposition


@subtests.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_pixel_is_enough_and_good_ones_are_what_diffusers_makes_of_them(bad: float) -> None:
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor()
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = finite_images(processor.postprocess(pixels, "pt"), processor)
    expected: list[Image.Image] = processor.postprocess(pixels, "pil")
    assert [each.tobytes() for each in shown] == [each.tobytes() for each in expected]
    pixels[1, 2, 3, 4] = bad
    with pytest.raises(NotFinite, match="not finite"):
        finite_images(pixels, processor)
