"""`pipe.capture()`: the pictures of the pipeline itself, from few recordings, and nothing kept of them afterwards."""

import pytest
import torch

from pangu.config import LoraConfig
from pangu.models.captured import Graphs
from pangu.models.lora import add_lora
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.denoiser import checked_denoiser
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from tests.pipelines.drawing import PROMPTS, draw
from tests.tape import Tape


@pytest.fixture
def pair() -> PanGuDrawPipeline:
    return untrained_pair(tiny())


def test_a_captured_pair_draws_the_same_bits_from_one_recording_for_each_half_and_batch(
    pair: PanGuDrawPipeline,
) -> None:
    tape = Tape()
    for step in range(3):
        prompts = PROMPTS[: 1 + step % 2]
        expected = draw(pair, prompts)
        with pair.capture(tape):
            assert torch.equal(draw(pair, prompts), expected)
            assert torch.equal(draw(pair, prompts, num_inference_steps=8), draw_eager(pair, prompts))
            with torch.no_grad():
                for half in (pair.structure, pair.texture):
                    half.conv_out.weight.mul_(0.5)
            assert torch.equal(draw(pair, prompts), draw_eager(pair, prompts, 5))
        assert len(tape.recorded) == 2 * (step + 1)
        assert pair.graphs is None


def draw_eager(pair: PanGuDrawPipeline, prompts: list[str], steps: int = 8) -> torch.Tensor:
    kept, pair.graphs = pair.graphs, None
    try:
        return draw(pair, prompts, num_inference_steps=steps)
    finally:
        pair.graphs = kept


def test_adapters_that_are_set_between_two_calls_count(pair: PanGuDrawPipeline) -> None:
    tape = Tape()
    add_lora(pair.texture, LoraConfig(rank=2), seed=0)
    for name, parameter in pair.texture.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    scales = [{"texture": scale} for scale in (1.0, 0.3, 1.0)]
    expected = [draw(pair, lora_scales=scale) for scale in scales]
    assert not torch.equal(expected[0], expected[1])
    with pair.capture(tape):
        assert all(torch.equal(draw(pair, lora_scales=scale), own) for scale, own in zip(scales, expected, strict=True))
    assert len(tape.recorded) == 3  # structure, and texture under two scales


def test_a_replay_looks_at_nothing_on_the_device(pair: PanGuDrawPipeline) -> None:
    """Nothing can be read from tensors of the device `meta`."""
    graphs = Graphs(lambda run, inputs, _: lambda: run(*inputs))
    ask = checked_denoiser(pair.structure.to("meta"), pair.contract("structure"), "structure", 0, graphs=graphs)
    config, said = pair.structure.config, pair.encode_prompt(["fox"] * 2)
    noisy = torch.empty(2, config.in_channels, 4, 4, device="meta")
    for timesteps in ([999, 500], [731.5, 700.25]):
        answer = ask(noisy, torch.tensor(timesteps), *(said.prompt[key].to("meta") for key in ("tokens", "pooled")))
        assert answer.device.type == "meta"
    assert graphs.recorded == len(graphs) == 1
