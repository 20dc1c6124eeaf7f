"""Adapters as users of diffusers load them: from anywhere, for a role, several at once, fused and taken out again."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangu.config import ROLES, Role
from pangu.errors import UserError
from pangu.models.lora import has_lora, put_adapter, save_lora, taken_layers
from pangu.models.lora_files import WEIGHTS
from pangu.models.lora_formats import LowRank, adaptable_layers
from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests.models.adapter_files import ATTENTION, by_hand, random_adapter, spelled
from tests.pipelines.drawing import draw
from tests.pipelines.test_baselines import contracts, shared

CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def own(shared_pair) -> PanGuDrawPipeline:
    """A pair whose networks a test may change."""
    components = shared_pair.components | {role: copy.deepcopy(shared_pair.generator(role)) for role in ROLES}
    return PanGuDrawPipeline(
        **components, contracts=dict(shared_pair.config.contracts), hidden_layers=shared_pair.config.hidden_layers
    )


@pytest.fixture(scope="module")
def kohya(shared_pair) -> dict[str, dict[str, torch.Tensor]]:
    """Two adapters from elsewhere."""
    unet = shared_pair.structure
    return {name: spelled(unet, random_adapter(unet, ATTENTION, seed), "kohya") for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def adapters(shared_pair) -> dict[str, dict[str, LowRank]]:
    return {name: random_adapter(shared_pair.structure, ATTENTION, seed) for seed, name in enumerate("ab")}


def weights(unet: Any) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in adaptable_layers(unet).items()}


def close(unet: Any, expected: dict[str, torch.Tensor]) -> None:
    for name, weight in weights(unet).items():
        torch.testing.assert_close(weight.double(), expected[f"{name}.weight"], **CLOSE)


def test_an_adapter_from_elsewhere_goes_where_the_user_says(own, kohya, adapters, tmp_path) -> None:
    save_file(kohya["a"], tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"has no contract.json, .* by role \(structure, texture or 'both'\)") as caught:
        own.load_lora_weights(tmp_path / "a.safetensors")
    assert str(tmp_path) in str(caught.value) and not own.get_list_adapters()
    with pytest.raises(UserError, match="role may be structure, texture or 'both', not 'unet'"):
        own.load_lora_weights(kohya["a"], role="unet")
    own.load_lora_weights(tmp_path, role="structure", weight_name="a.safetensors")
    assert own.get_list_adapters() == {"structure": ["default_0"]}
    own.load_lora_weights(tmp_path.parent, subfolder=tmp_path.name, role="both")
    assert own.get_list_adapters() == {"structure": ["default_0", "default_1"], "texture": ["default_1"]}
    assert own.get_active_adapters() == ["default_1"]
    for name in ("default_0", "default_1"):
        taken = taken_layers(own.structure, name)
        assert all(torch.equal(taken[layer].up, low.up) for layer, low in adapters["a"].items())
    with pytest.raises(UserError, match="The structure generator has an adapter 'default_1' already"):
        own.load_lora_weights(kohya["a"], "default_1", role="both")
    own.unload_lora_weights()
    assert not own.get_list_adapters()


def test_our_own_adapter_goes_where_its_timesteps_are_and_comes_back_from_a_folder(
    own, shared_pair, kohya, adapters, tmp_path
) -> None:
    for role, low, high in (("structure", 500, 1000), ("texture", 0, 500), ("boost_high", 0, 1000)):
        unet = copy.deepcopy(shared_pair.structure)
        put_adapter(unet, "default", adapters["a"])
        contract = shared_pair.contract("structure").model_copy(update={"role": role, "low": low, "high": high})
        save_lora(unet, contract, tmp_path / role)
        own.load_lora_weights(tmp_path / role, role)
        assert own.get_list_adapters() == {one: [role] for one in ((role,) if role in ROLES else ROLES)}
        own.unload_lora_weights()
    with pytest.raises(
        UserError, match=r"trained for t in \[0, 500\) \(texture\), but the structure generator is asked"
    ):
        own.load_lora_weights(tmp_path / "texture", role="both")
    other = shared_pair.contract("structure").model_copy(update={"autoencoder_hash": "another"})
    other.save(tmp_path / "structure")
    with pytest.raises(UserError, match="was trained with autoencoder_hash another"):
        own.load_lora_weights(tmp_path / "structure")
    assert not own.get_list_adapters()
    own.load_lora_weights(tmp_path / "boost_high", "a")
    assert {name: low.alpha for name, low in taken_layers(own.structure, "a").items()} == {
        name: low.alpha for name, low in adapters["a"].items()
    }
    with pytest.raises(UserError, match="here they leave 'a' of structure, 'a' of texture"):
        own.save_lora_weights(tmp_path / "again")
    own.save_lora_weights(tmp_path / "again", role="texture")
    first, second = (load_file(tmp_path / folder / WEIGHTS) for folder in ("boost_high", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    save_file(kohya["b"], tmp_path / "again" / WEIGHTS)
    own.load_lora_weights(tmp_path / "again", "b")
    assert own.get_list_adapters() == {"structure": ["a"], "texture": ["a", "b"]}
    own.load_lora(texture=tmp_path / "again")
    assert own.get_list_adapters() == {"structure": ["a"], "texture": ["default"]}
    taken = taken_layers(own.texture, "default")
    assert all(torch.equal(taken[name].down, low.down) for name, low in adapters["b"].items())
    (tmp_path / "again/contract.json").unlink()
    with pytest.raises(UserError, match=r"is put on the texture generator by load_lora_weights\(..., role='texture'\)"):
        own.load_lora(texture=tmp_path / "again")


def test_adapters_add_up_at_their_weights_and_come_out_again(own, shared_pair, kohya, adapters) -> None:
    """Fused weights against W + sum of weight * scale * alpha / rank * B A; drawing with and without fusing."""
    plain = draw(own)
    for name in "ab":
        own.load_lora_weights(kohya[name], name, role="both")
    own.set_adapters(["a", "b"], [{"structure": 0.5, "texture": 0.25}, 0.1])
    assert own.get_active_adapters() == ["a", "b"]
    drawn = draw(own, lora_scales={"structure": 0.8})
    own.disable_lora()
    assert torch.equal(draw(own), plain)
    own.enable_lora()
    before = weights(own.structure)
    own.fuse_lora({"structure": 0.8})
    first: dict[Role, float] = {"structure": 0.5 * 0.8, "texture": 0.25}
    for role, scale in first.items():
        unet = shared_pair.generator(role)
        only_a, only_b = (
            by_hand(unet, adapters["a"], scale),
            by_hand(unet, adapters["b"], 0.1 * scale / (0.5 if role == "structure" else 0.25)),
        )
        close(own.generator(role), {key: only_a[key] + only_b[key] - unet.state_dict()[key].double() for key in only_a})
    torch.testing.assert_close(draw(own), drawn, rtol=0, atol=1e-4)
    own.unfuse_lora()
    assert own.get_active_adapters() == ["a", "b"]
    for name, weight in weights(own.structure).items():
        torch.testing.assert_close(weight, before[name], **CLOSE)
    torch.testing.assert_close(draw(own, lora_scales={"structure": 0.8}), drawn, rtol=0, atol=1e-4)
    own.delete_adapters("b")
    assert own.get_list_adapters() == {"structure": ["a"], "texture": ["a"]}
    own.fuse_lora()
    own.load_lora_weights(kohya["b"], "a", role="texture")
    with pytest.raises(UserError, match="Two adapters 'a' were loaded"):
        own.unfuse_lora()
    own.delete_adapters("a")
    own.load_lora_weights(kohya["b"], role="texture")
    own.unfuse_lora()
    assert own.get_active_adapters() == ["a", "default_0"]
    own.delete_adapters("default_0")
    own.fuse_lora(components=["structure"], lora_scale=2.0)
    close(own.structure, by_hand(shared_pair.structure, adapters["a"], 2.0 * 0.5))
    assert not has_lora(own.structure) and has_lora(own.texture)
    own.unload_lora_weights()
    with pytest.raises(UserError, match="No adapter is fused"):
        own.unfuse_lora()


def test_an_adapter_that_does_not_act_stays_when_others_are_fused(own, shared_pair, kohya, adapters) -> None:
    for name in "ab":
        own.load_lora_weights(kohya[name], name, role="structure")
    own.fuse_lora()
    assert own.get_list_adapters() == {"structure": ["a"]} and not own.get_active_adapters()
    close(own.structure, by_hand(shared_pair.structure, adapters["b"]))
    fused = draw(own)
    own.set_adapters("a", 0.0)
    assert torch.equal(draw(own), fused)


def test_bad_names_weights_and_halves_get_one_sentence(own, kohya, tmp_path) -> None:
    own.load_lora_weights(kohya["a"], "a", role="structure")
    with pytest.raises(UserError, match="There is no adapter 'c', only a"):
        own.set_adapters(["a", "c"])
    with pytest.raises(UserError, match="was given 1 names and 2 weights"):
        own.set_adapters("a", [0.5, 0.5])
    with pytest.raises(UserError, match="weight of an adapter must be a finite number, not nan"):
        own.set_adapters("a", float("nan"))
    with pytest.raises(UserError, match="There is no adapter 'c', only a"):
        own.delete_adapters("c")
    with pytest.raises(UserError, match="components may be structure, texture or 'both', not 'unet'"):
        own.fuse_lora(components=["unet"])
    with pytest.raises(UserError, match="The structure generator has an adapter; call fuse_lora or unload_lora"):
        own.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="must be a mapping of names to tensors"):
        own.load_lora_weights({"a": [1.0]}, role="both")
    wide = {key: torch.cat([value, value], 1) if value.ndim == 2 else value for key, value in kohya["b"].items()}
    with pytest.raises(UserError, match="does not fit the structure generator: the matrices of"):
        own.load_lora_weights(wide, role="both")
    own.register_modules(texture=None)
    with pytest.raises(UserError, match="This pipeline was loaded without its texture generator"):
        own.load_lora_weights(kohya["b"], role="both")
    assert own.get_list_adapters() == {"structure": ["a"]}


def test_a_single_stage_needs_no_role(shared_pair, kohya, adapters) -> None:
    single = SingleStage(
        unet=copy.deepcopy(shared_pair.structure), **shared(shared_pair), contracts=contracts(shared_pair, "boost_high")
    )
    single.load_lora_weights(kohya["a"])
    assert single.get_list_adapters() == {"boost_high": ["default_0"]}
    single.fuse_lora()
    close(single.unet, by_hand(shared_pair.structure, adapters["a"]))


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_adapters_come_and_go_under_offloading(way, shared_pair, own, kohya, adapters) -> None:
    """The accelerator is the CPU, which changes no bit; under sequential offloading the weights lie elsewhere between calls."""
    for name in ("vae", "text_encoder"):
        own.register_modules(**{name: copy.deepcopy(shared_pair.components[name])})
    getattr(own, way)(device="cpu")
    own.load_lora_weights(kohya["a"], role="both")
    elsewhere = own.structure.conv_in.weight.device.type == "meta"
    assert elsewhere == (way == "enable_sequential_cpu_offload"), "the hooks are back"
    if not elsewhere:
        assert not torch.equal(draw(own), draw(shared_pair))
    own.remove_all_hooks()
    taken = taken_layers(own.texture, "default_0")
    assert all(torch.equal(taken[name].up, low.up) for name, low in adapters["a"].items())
    getattr(own, way)(device="cpu")
    own.unload_lora_weights()
    own.remove_all_hooks()
    assert torch.equal(draw(own), draw(shared_pair))
