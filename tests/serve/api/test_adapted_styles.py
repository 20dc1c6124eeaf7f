"""Styles that are adapters, over HTTP: as by the pipeline, also beside requests for others, and with adapters of the request."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pangu.config import ROLES
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests.models.adapter_files import ATTENTION, random_adapter, spelled
from tests.serve.api.test_request_loras import drawn
from tests.serve.local import LocalServer, serving

STEPS = 4


@pytest.fixture(scope="module")
def styled(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with two styles of prefixes and two of adapters; beside it an adapter for requests."""
    folder = tmp_path_factory.mktemp("styled")
    pair = PanGuDrawPipeline.from_pretrained(pair_folder)
    for seed, style in enumerate(("ink", "oil")):
        files = {role: folder / f"{style}-{role}.safetensors" for role in ROLES}
        for role, file in files.items():
            unet = pair.components[role]
            save_file(spelled(unet, random_adapter(unet, ATTENTION, 10 * seed + len(role)), "kohya"), file)
        pair.load_style(style, **files)
    pair.register_to_config(sampling={"num_inference_steps": 30, "guidance_scale": 3.0, "texture_guidance": 1.5})
    pair.save_pretrained(folder / "pair")
    return folder


@pytest.fixture(scope="module")
def server(styled: Path) -> Iterator[LocalServer]:
    declared = {"fine": {"texture": str(styled / "ink-texture.safetensors")}}
    with serving(styled / "pair", loras=declared, max_in_flight=16) as server:
        yield server


def test_requests_of_all_styles_at_once_are_drawn_as_the_pipeline_draws_each(server: LocalServer, styled: Path) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"][0]["styles"]
    assert listed == ["cartoon", "photo", "ink", "oil"]
    pair = PanGuDrawPipeline.from_pretrained(styled / "pair")
    pair.set_progress_bar_config(disable=True)
    kinds = [{}, {"ink": 1.0}, {"oil": 0.5, "ink": 0.5}, {"photo": 1.0, "oil": 1.0}, {"oil": 1.0}]
    bodies = [{"seed": 7, "num_inference_steps": STEPS, "guidance_scale": 3.0, "style": style} for style in kinds]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = [drawn(answer) for answer in pool.map(lambda body: server.draw("mixed", **body), bodies)]
    for style, answer in zip(kinds, answers, strict=True):
        options = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "styles": style}
        expected = pair("mixed", generator=torch.Generator().manual_seed(7), **options).images[0]
        assert np.abs(np.asarray(expected).astype(int) - answer).max() <= 1, style
    assert all(np.abs(answers[0] - other).max() > 8 for other in answers[1:])


def test_each_half_has_its_own_and_adapters_of_the_request_act_beside_them(server: LocalServer) -> None:
    asked = {"seed": 3, "num_inference_steps": STEPS}
    ink = drawn(server.draw(**asked, style={"ink": 1.0}))
    structure_alone = drawn(server.draw(**asked, style={"ink": 1.0}, texture={"style": {}}))
    both = drawn(server.draw(**asked, style={"ink": 1.0}, texture={"style": {}}, loras=[{"name": "fine"}]))
    assert np.abs(both - ink).max() <= 1, "the same matrices, once as a style and once as an adapter"
    assert np.abs(structure_alone - ink).max() > 2
    refused = server.draw(**asked, style={"chalk": 1.0})
    assert (
        refused.status_code == 400 and "this pair knows cartoon, photo, ink, oil" in refused.json()["error"]["message"]
    )


def test_a_pair_may_prefer_another_guidance_below_the_boundary(server: LocalServer) -> None:
    assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["texture_guidance"] == 1.5
    asked = {"seed": 3, "num_inference_steps": STEPS}
    preferred = server.draw(**asked)
    assert preferred.json()["request"]["texture"]["guidance_scale"] == 1.5
    halves = server.draw(**asked, guidance_scale={"structure": 3.0, "texture": 1.5})
    assert np.array_equal(drawn(preferred), drawn(halves))
    assert np.array_equal(drawn(preferred), drawn(server.draw(**preferred.json()["request"])))
    assert np.abs(drawn(preferred) - drawn(server.draw(**asked, guidance_scale=3.0))).max() > 2, (
        "what is asked for counts"
    )
