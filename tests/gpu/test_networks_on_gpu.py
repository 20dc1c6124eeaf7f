"""Networks on a GPU: one compiled graph a shape, pictures in bf16 like those in fp32, and steps that wait for nothing."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pangu.models.compiled import compile_blocks
from pangu.models.denoisers import denoise
from pangu.pipelines.assemble import starting_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import demo
from tests.gpu import CUDA_ALONE, DEVICE, ON_A_GPU
from tests.models.test_compiled import PRESETS, network

pytestmark = ON_A_GPU
STEPS, SEEDS = 12, (0, 1, 2, 3)


@pytest.fixture
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def predictions(one: Any) -> list[torch.Tensor]:
    """At every preset, with gradients as in training."""
    found = []
    for preset, (height, width) in enumerate(PRESETS):
        generator = torch.Generator().manual_seed(preset)
        shapes = (2, 4, height, width), (2, 6, 8), (2, 8)
        noisy, tokens, pooled = (torch.randn(*shape, generator=generator).to(DEVICE) for shape in shapes)
        found.append(denoise(one, noisy, torch.tensor([600, 900], device=DEVICE), tokens, pooled, preset))
    return found


@CUDA_ALONE
def test_compiled_blocks_have_one_graph_a_preset_and_predict_what_they_did(fresh: None) -> None:
    one = network().to(DEVICE)
    before = predictions(one)
    assert compile_blocks(one) > 0
    for ours, theirs in zip(predictions(one), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    with torch.no_grad():
        one.conv_in.weight.add_(1)  # training changes values, never graphs
    predictions(one)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.fixture(scope="module")
def pair() -> PanGuDrawPipeline:
    return starting_pair(demo()).to(DEVICE)


def drawn(pair: PanGuDrawPipeline) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] on the CPU, float32."""
    pair.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    prompts = ["a red apple"] * len(SEEDS)
    return pair(prompts, num_inference_steps=STEPS, generator=generators, output_type="pt").images.float().cpu()


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean()))


def test_pictures_in_bf16_are_close_to_those_in_fp32(pair: PanGuDrawPipeline) -> None:
    half = PanGuDrawPipeline(**copy.deepcopy(pair.components), **_settings(pair)).to(DEVICE, torch.bfloat16)
    assert half.structure.dtype == torch.bfloat16 and pair.structure.dtype == torch.float32
    assert decibels(drawn(half), drawn(pair)) > 25


def test_pictures_are_those_of_a_cpu(pair: PanGuDrawPipeline) -> None:
    """The noise of a seed is drawn on the CPU whatever the device."""
    alone = PanGuDrawPipeline(**copy.deepcopy(pair.components), **_settings(pair)).to("cpu")
    assert decibels(drawn(alone), drawn(pair)) > 35


def _settings(pair: PanGuDrawPipeline) -> dict[str, Any]:
    return {name: value for name, value in pair.config.items() if name not in pair.components and name[0] != "_"}


@CUDA_ALONE
def test_a_sampling_step_waits_for_nothing(pair: PanGuDrawPipeline) -> None:
    """Of all steps of both halves, the scheduler's own part included."""
    conditioning = pair.encode_prompt(["a red apple"])
    side = pair.resolution
    trajectory = pair.start(conditioning, height=side, width=side, num_inference_steps=STEPS, guidance_scale=3.0)
    walked = pair.finish(trajectory)  # kernels are loaded
    torch.cuda.synchronize()
    trajectory = pair.start(conditioning, height=side, width=side, num_inference_steps=STEPS, guidance_scale=3.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = pair.finish(trajectory)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert walked.finished and again.finished
