"""A denoiser compiled block by block: one graph a block and shape, the same predictions, and no end where the compiler fails."""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pangu.config import DenoiserConfig
from pangu.models.compiled import compile_blocks
from pangu.models.denoisers import build_denoiser, denoise

SMALL = DenoiserConfig(
    block_out_channels=(8, 16), attention=(False, True), transformer_layers_per_block=(1, 1), attention_head_dim=8,
    norm_num_groups=4, preset_embed_dim=2,
)  # fmt: skip
PRESETS = ((4, 4), (6, 4), (4, 6))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def network() -> Any:
    torch.manual_seed(0)
    return build_denoiser(SMALL, 4, 8, 8)


def predictions(one: Any) -> list[torch.Tensor]:
    """At every preset, with gradients as in training."""
    found = []
    for preset, (height, width) in enumerate(PRESETS):
        generator = torch.Generator().manual_seed(preset)
        noisy, tokens, pooled = (
            torch.randn(*shape, generator=generator) for shape in ((2, 4, height, width), (2, 6, 8), (2, 8))
        )
        found.append(denoise(one, noisy, torch.tensor([600, 900]), tokens, pooled, preset))
    return found


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.long
def test_every_preset_is_compiled_once_and_predicts_what_it_did() -> None:
    one, backend = network(), Counting()
    names, before = set(one.state_dict()), predictions(one)
    blocks = compile_blocks(one, backend)
    assert set(one.state_dict()) == names
    assert all(map(torch.equal, predictions(one), before))
    first = backend.graphs
    assert 0 < first <= blocks * len(PRESETS)
    assert all(map(torch.equal, predictions(one), before))
    with torch.no_grad():
        one.conv_in.weight.add_(1)  # training changes values, never graphs
    assert not any(map(torch.equal, predictions(one), before))
    assert backend.graphs == first
    assert not counters["graph_break"]


@pytest.mark.long
def test_many_presets_are_all_compiled_although_torch_gives_up_after_eight_shapes() -> None:
    one, backend = network(), Counting()
    compile_blocks(one, backend)

    def predict(height: int) -> None:
        denoise(one, torch.randn(1, 4, height, 4), torch.tensor([600]), torch.randn(1, 6, 8), torch.randn(1, 8), 0)

    graphs = []
    for height in range(2, 26, 2):
        predict(height)
        graphs.append(backend.graphs)
    per_preset = {after - before for before, after in pairwise(graphs)}
    assert min(per_preset) > 0, graphs


@pytest.mark.long
def test_where_the_compiler_fails_the_blocks_run_as_they_are_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        raise RuntimeError("no compiler on this machine\nand more")

    one = network()
    before = predictions(one)
    compile_blocks(one, broken)
    with caplog.at_level(logging.WARNING, "pangu.models.compiled"):
        assert all(map(torch.equal, predictions(one), before))
    assert [record.getMessage() for record in caplog.records if record.name == "pangu.models.compiled"] == [
        "torch.compile failed, so such blocks run uncompiled: no compiler on this machine"
    ]
