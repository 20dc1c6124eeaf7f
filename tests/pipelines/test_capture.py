"""`pipe.capture()`: the pictures of the pipeline itself, from few recordings, and nothing kept of them afterwards."""

import pytest
import torch

from pangu.config import LoraConfig
from pangu.models.lora import add_lora
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from tests.pipelines.drawing import PROMPTS, draw
from tests.tape import Tape
from tests.waits import waits


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


def test_sampling_steps_wait_for_nothing_of_the_device(pair: PanGuDrawPipeline) -> None:
    """More steps read more of the CPU's timesteps, which nobody waits for, and nothing else."""

    def seen(steps: int) -> dict[str, int]:
        with pair.capture(Tape()):
            draw(pair, output_type="latent", num_inference_steps=2)
            return dict(waits(lambda: draw(pair, output_type="latent", num_inference_steps=steps)))

    assert seen(4) != {}
