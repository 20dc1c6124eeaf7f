"""Offloading: one model at a time on the accelerator, in the order in which the pair uses them."""

import copy
import itertools

import pytest
import torch

from pangu.errors import UserError
from pangu.models.residence import Residence, weights_on_device
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


@pytest.fixture
def waiting(shared_pair) -> PanGuDrawPipeline:
    """A copy of the pair of which one half is on the device at a time; the weights of the other are of no memory there."""
    components = shared_pair.components | {
        role: copy.deepcopy(shared_pair.components[role]) for role in ("structure", "texture")
    }
    pair = PanGuDrawPipeline(
        **components, contracts=dict(shared_pair.config.contracts), hidden_layers=shared_pair.config.hidden_layers
    )
    pair.offload_idle("cpu")
    return pair


def test_only_the_half_that_is_asked_is_on_the_device(waiting, shared_pair) -> None:
    halves = {role: waiting.generator(role) for role in ("structure", "texture")}
    whole = {role: sum(each.nbytes for each in shared_pair.generator(role).parameters()) for role in halves}
    seen: list[tuple[str, dict[str, int]]] = []

    def look(role: str):
        def there(*_) -> None:
            seen.append((role, {each: sum(w.nbytes for w in weights_on_device(net)) for each, net in halves.items()}))

        return there

    hooks = [network.register_forward_pre_hook(look(role)) for role, network in halves.items()]
    assert all(not list(weights_on_device(network)) for network in halves.values())
    drawn = draw(waiting)
    for hook in hooks:
        hook.remove()
    assert [role for role, _ in itertools.groupby(seen, lambda one: one[0])] == [("structure"), ("texture")]
    for role, there in seen:
        assert there == {each: whole[each] if each == role else 0 for each in halves}
    assert max(sum(there.values()) for _, there in seen) <= 0.6 * sum(whole.values())
    assert torch.equal(drawn, draw(shared_pair)) and torch.equal(draw(waiting), drawn)


def test_halves_that_wait_are_saved_and_given_back_whole(waiting, shared_pair, tmp_path) -> None:
    with pytest.raises(UserError, match="call keep_all"):
        waiting.to("cpu")
    with pytest.raises(UserError, match="wait for one device alone"):
        Residence("cpu").add(waiting.texture)
    waiting.save_pretrained(tmp_path / "pair")
    assert waiting.residence is not None and not list(weights_on_device(waiting.texture))
    assert torch.equal(draw(PanGuDrawPipeline.from_pretrained(tmp_path / "pair")), draw(shared_pair))
    waiting.keep_all()
    assert torch.equal(draw(waiting.to("cpu")), draw(shared_pair))
    with (
        waiting.capture(lambda run, inputs, beside: lambda: run(*inputs)),
        pytest.raises(UserError, match="leave capture"),
    ):
        waiting.offload_idle()
    waiting.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UserError, match="moved by hooks already"):
        waiting.offload_idle()


def test_a_pair_that_shares_parts_with_an_offloaded_one_is_saved(pair, tmp_path) -> None:
    other = PanGuDrawPipeline(
        **pair.components, contracts=dict(pair.config.contracts), hidden_layers=pair.config.hidden_layers
    )
    other.enable_model_cpu_offload(device="cpu")
    try:
        pair.save_pretrained(tmp_path)
        assert torch.equal(draw(PanGuDrawPipeline.from_pretrained(tmp_path)), draw(pair))
    finally:
        other.remove_all_hooks()
