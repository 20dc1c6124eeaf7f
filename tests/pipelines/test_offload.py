"""Offloading: one model at a time on the accelerator, in the order in which the pair uses them."""

import copy
import itertools

import pytest
import torch

from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests.pipelines.drawing import draw


@pytest.fixture
def offloaded(shared_pair) -> PanGuDrawPipeline:
    """A copy of the pair under diffusers' own hooks; the accelerator is the CPU, which changes no bit."""
    names = ("structure", "texture", "vae", "text_encoder")
    components = shared_pair.components | {name: copy.deepcopy(shared_pair.components[name]) for name in names}
    pair = PanGuDrawPipeline(
        **components, contracts=dict(shared_pair.config.contracts), hidden_layers=shared_pair.config.hidden_layers
    )
    pair.enable_model_cpu_offload(device="cpu")
    return pair


def test_each_model_makes_room_for_the_next(offloaded) -> None:
    """Each hook sends the model before it away first, so structure is gone when texture comes in."""
    before = {id(hook.model): hook.hook.prev_module_hook for hook in offloaded._all_hooks}
    order = [offloaded.text_encoder, offloaded.structure, offloaded.texture, offloaded.vae]
    assert before[id(order[0])] is None
    for earlier, later in itertools.pairwise(order):
        assert before[id(later)].model is earlier


def test_an_offloaded_pair_draws_the_same(offloaded, shared_pair) -> None:
    assert torch.equal(draw(offloaded), draw(shared_pair))
    assert torch.equal(draw(offloaded), draw(shared_pair)), "and again, after the hooks were renewed"
