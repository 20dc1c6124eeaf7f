"""A network that is replayed: what it draws to the bit, what is recorded and when, and no end where recording fails."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.config import LoraConfig
from pangu.errors import UserError
from pangu.models.captured import Graphs
from pangu.models.denoisers import denoise
from pangu.models.lora import ADAPTER, add_lora, set_lora_scale
from tests import subtests
from tests.models.unets import sdxl_unet, stable_diffusion_unet
from tests.tape import Tape

checks = subtests.Checks()

Shape = tuple[int, int, int]
"""Rows, height and width of latents."""
shapes = st.tuples(st.integers(1, 3), st.sampled_from([4, 8]), st.sampled_from([4, 6]))


def asked(shape: Shape, seed: int) -> tuple[torch.Tensor, ...]:
    """Latents, timesteps, tokens and pooled text."""
    rows, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    noisy, tokens, pooled = (
        torch.randn(*each, generator=generator) for each in ((rows, 4, height, width), (rows, 5, 24), (rows, 12))
    )
    return noisy, torch.randint(0, 1000, (rows,), generator=generator).float(), tokens, pooled


def plain(unet: Any, preset: int = 0) -> Callable[..., torch.Tensor]:
    return lambda *inputs: denoise(unet, *inputs, preset, native_size=(8 + preset, 8))


def replayed(graphs: Graphs, unet: Any, preset: int = 0) -> Callable[..., torch.Tensor]:
    return graphs.of("unet", unet, preset, plain(unet, preset))


def alike(graphs: Graphs, unet: Any, shape: Shape = (2, 8, 8), seed: int = 0, preset: int = 0) -> bool:
    with torch.inference_mode():
        inputs = asked(shape, seed)
        return torch.equal(replayed(graphs, unet, preset)(*inputs), plain(unet, preset)(*inputs))


def change(unet: Any) -> None:
    """Other weights, loaded in place."""
    unet.load_state_dict({name: value * 0.9 for name, value in unet.state_dict().items()})


@pytest.mark.long
@given(st.lists(st.tuples(shapes, st.integers(0, 9), st.integers(0, 1), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_replays_are_the_networks_own_bits_and_each_shape_is_recorded_once(
    calls: list[tuple[Shape, int, int, bool]],
) -> None:
    unet, tape = sdxl_unet(), Tape()
    graphs = Graphs(tape)
    for shape, seed, preset, new_weights in calls:
        if new_weights:
            change(unet)
        assert alike(graphs, unet, shape, seed, preset)
    assert len(tape.recorded) == graphs.recorded == len({(shape, preset) for shape, _, preset, _ in calls})


@checks
def a_result_outlives_the_next_replay() -> None:
    unet, graphs = sdxl_unet(), Graphs(Tape())
    with torch.inference_mode():
        first = replayed(graphs, unet)(*asked((2, 8, 8), 0))
        kept = first.clone()
        replayed(graphs, unet)(*asked((2, 8, 8), 1))
    assert torch.equal(first, kept)


@checks
def weights_that_lie_elsewhere_are_recorded_anew_and_the_old_recordings_go() -> None:
    unet, tape = sdxl_unet(), Tape()
    graphs = Graphs(tape)
    for shape in ((1, 8, 8), (2, 8, 8)):
        assert alike(graphs, unet, shape)
    unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight * 2)
    assert alike(graphs, unet)
    assert (len(tape.recorded), len(graphs)) == (3, 1)
    unet.to(torch.float64).to(torch.float32)
    assert alike(graphs, unet)
    assert (len(tape.recorded), len(graphs)) == (4, 1)


@checks
def of_many_shapes_the_latest_are_kept() -> None:
    unet, tape = stable_diffusion_unet(), Tape()
    graphs = Graphs(tape, most=2)
    for height in (4, 8, 4, 12, 4, 8):
        assert alike(graphs, unet, (1, height, 4))
    assert len(graphs) == 2
    heights = [inputs[0][2] for inputs in tape.recorded]
    assert heights == [4, 8, 12, 8]  # 4 was never the least recently used


def test_each_scale_of_an_adapter_and_each_switch_has_recordings_of_its_own() -> None:
    unet, tape = sdxl_unet(), Tape()
    add_lora(unet, LoraConfig(rank=2), seed=0)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    graphs = Graphs(tape)
    for scale in (1.0, 0.5, 1.0, 0.5):
        set_lora_scale(unet, scale)
        assert alike(graphs, unet)
    assert len(tape.recorded) == 2
    unet.set_adapter(ADAPTER)
    unet.disable_adapters()
    assert alike(graphs, unet)
    unet.enable_freeu(0.9, 0.2, 1.2, 1.4)
    assert alike(graphs, unet)
    assert len(tape.recorded) == 4


def test_where_recording_fails_the_network_runs_as_it_is_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    unet, graphs = sdxl_unet(), Graphs(Tape(fails="no such operator\nand more"))
    with caplog.at_level(logging.WARNING, "pangu.models.captured"):
        for shape in ((1, 8, 8), (1, 8, 8), (2, 8, 8)):
            assert alike(graphs, unet, shape)
    assert [record.getMessage() for record in caplog.records] == [
        "A network could not be captured, so it runs as it is: no such operator"
    ]
    assert (len(graphs), graphs.recorded) == (0, 0)


def test_without_a_gpu_nothing_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    assert alike(Graphs(), sdxl_unet())
    assert "only CUDA devices record what they do, and its tensors are on cpu" in caplog.text


def test_a_question_that_is_wrong_is_refused_as_ever_and_blames_no_recording(caplog: pytest.LogCaptureFixture) -> None:
    unet = sdxl_unet()
    noisy, timestep, tokens, pooled = asked((2, 8, 8), 0)
    with pytest.raises(UserError, match="does not fit pooled text of 11 channels"):
        replayed(Graphs(Tape()), unet)(noisy, timestep, tokens, pooled[:, 1:])
    assert caplog.text == ""


def test_weights_that_move_while_they_work_are_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    unet, tape = sdxl_unet(), Tape()
    add_hook_to_module(unet.mid_block, ModelHook())
    assert alike(Graphs(tape), unet)
    assert tape.recorded == []
    assert "its weights are moved while it works" in caplog.text


test_captured = checks.test()
