"""Networks recorded as CUDA graphs: the predictions of the network, in every shape, with weights that change in place."""

from collections.abc import Callable
from typing import Any

import torch

from pangu.models.captured import Graphs
from pangu.models.denoisers import denoise
from tests.gpu import CUDA_ALONE, DEVICE, ON_A_GPU
from tests.models.test_compiled import network

pytestmark = [*ON_A_GPU, CUDA_ALONE]
SHAPES = ((1, 4, 4), (2, 4, 4), (2, 6, 4))
"""Rows, height and width of latents."""


def inputs(shape: tuple[int, int, int], seed: int) -> list[torch.Tensor]:
    rows, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = (rows, 4, height, width), (rows,), (rows, 6, 8), (rows, 8)
    noisy, timestep, tokens, pooled = (torch.randn(*size, generator=generator).to(DEVICE) for size in sizes)
    return [noisy, timestep.abs() * 100, tokens, pooled]


def as_it_is(unet: Any) -> Callable[..., torch.Tensor]:
    return lambda *given: denoise(unet, *given, 0)


def frozen() -> Any:
    return network().to(DEVICE).eval().requires_grad_(False)


def check(graphs: Graphs, unet: Any) -> None:
    for shape in (*SHAPES, SHAPES[0]):
        for seed in range(3):
            given = inputs(shape, seed)
            with torch.inference_mode():
                ours = graphs.of("unet", unet, 0, as_it_is(unet))(*given)
                torch.testing.assert_close(ours, as_it_is(unet)(*given), rtol=1e-4, atol=1e-5)


def test_a_recording_predicts_what_the_network_does_and_there_is_one_a_shape() -> None:
    graphs, unet = Graphs(), frozen()
    check(graphs, unet)
    assert graphs.recorded == len(graphs) == len(SHAPES)


def test_weights_that_are_loaded_in_place_count_without_another_recording() -> None:
    graphs, unet = Graphs(), frozen()
    check(graphs, unet)
    unet.load_state_dict({name: value * 0.9 for name, value in unet.state_dict().items()})
    check(graphs, unet)
    assert graphs.recorded == len(SHAPES)


def test_a_replay_waits_for_nothing() -> None:
    graphs, unet, given = Graphs(), frozen(), inputs(SHAPES[0], 0)
    with torch.inference_mode():
        replayed = graphs.of("unet", unet, 0, as_it_is(unet))
        before = replayed(*given)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = replayed(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, before)
