"""Files of adapters: each format means the same, every matrix is used, and what can not be used is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from pangu.errors import UserError
from pangu.models.lora import ADAPTER, fitted, fuse_lora, has_lora, put_adapter, save_lora, taken_layers, unfuse_lora
from pangu.models.lora_files import AdapterFile, find_weights
from pangu.models.lora_formats import adaptable_layers
from pangu.models.original_names import original_name, original_prefixes
from tests import subtests
from tests.models.adapter_files import ATTENTION, FORMATS, by_hand, deep_unet, linear_unet, random_adapter, spelled
from tests.models.test_initial import contract
from tests.models.unets import stable_diffusion_unet

checks = subtests.Checks()

Tensors = dict[str, Tensor]
CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}


def read(file: Path, unet: Any, **options: Any) -> None:
    put_adapter(unet, ADAPTER, fitted(file, unet, contract("structure"), **options))


@pytest.mark.long
@subtests.parametrize("form", FORMATS)
def test_every_format_means_w_plus_alpha_over_rank_times_b_a(form, tmp_path) -> None:
    """On every linear and convolutional layer, and bit for bit the matrices of the file: no other, and none left out."""
    plain = deep_unet() if form.endswith("original") else linear_unet()
    adapter = random_adapter(plain, ATTENTION if form == "attention_processors" else ())
    save_file(spelled(plain, adapter, form), tmp_path / "a.safetensors")
    unets = copy.deepcopy(plain), copy.deepcopy(plain)
    for seed, unet in enumerate(unets):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        read(tmp_path / "a.safetensors", unet)
        assert torch.equal(torch.get_rng_state(), state)
        taken = taken_layers(unet, ADAPTER)
        assert taken.keys() == adapter.keys()
        assert all(torch.equal(taken[name].down, low.down) for name, low in adapter.items())
        assert all(torch.equal(taken[name].up, low.up) for name, low in adapter.items())
        inside = [key for key in unet.state_dict() if ".lora_" in key]
        assert len(inside) == 2 * len(adapter), "the network has no matrix that the file has not"
    first, second = (unet.state_dict() for unet in unets)
    assert all(torch.equal(first[key], second[key]) for key in first | second)
    fuse_lora(unets[0])
    expected = by_hand(plain, adapter)
    assert unets[0].state_dict().keys() == expected.keys()
    for name, weight in unets[0].state_dict().items():
        torch.testing.assert_close(weight.double(), expected[name], **CLOSE)


@checks
def diffusers_reads_what_was_read_from_elsewhere_and_saved_here(tmp_path) -> None:
    plain, unet, other = linear_unet(), linear_unet(), linear_unet()
    adapter = random_adapter(plain)
    put_adapter(unet, ADAPTER, fitted(AdapterFile(spelled(plain, adapter, "kohya")), unet, contract("structure")))
    save_lora(unet, contract("structure"), tmp_path)
    tensors, alphas, facts = StableDiffusionPipeline.lora_state_dict(
        tmp_path, return_lora_metadata=True, local_files_only=True
    )
    StableDiffusionPipeline.load_lora_into_unet(tensors, alphas, other, metadata=facts)
    fuse_lora(other)
    expected = by_hand(plain, adapter)
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(weight.double(), expected[name], **CLOSE)


def test_what_is_fused_comes_out_of_the_weights_again() -> None:
    unet = linear_unet()
    adapter = random_adapter(unet)
    put_adapter(unet, "a", adapter)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    expected = by_hand(linear_unet(), adapter, 0.7)
    fuse_lora(unet, 0.7)
    for name, weight in unet.state_dict().items():
        torch.testing.assert_close(weight.double(), expected[name], **CLOSE)
    unfuse_lora(unet)
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before if ".lora_" in key)
    for key in before:
        torch.testing.assert_close(after[key], before[key], **CLOSE)


@checks
def original_names_are_those_that_diffusers_converts_from() -> None:
    for unet in (deep_unet(), linear_unet(), stable_diffusion_unet()):
        prefixes, layers = original_prefixes(unet), adaptable_layers(unet)
        checkpoint = {
            f"model.diffusion_model.{original_name(name, prefixes)}.{kind}": torch.tensor(number)
            for number, name in enumerate(layers)
            for kind in ("weight", "bias")
        }
        # Layers without a bias have one here, for the converter asks for both.
        converted = convert_ldm_unet_checkpoint(checkpoint, unet.config)
        assert len(checkpoint) == 2 * len(layers)
        names = {name: int(number) for name, number in converted.items() if name.endswith(".weight")}
        assert names == {f"{name}.weight": number for number, name in enumerate(layers)}


@checks
def kohya_names_are_those_that_diffusers_converts_from() -> None:
    """A reference for one spelling; both readers must give each layer the same matrix."""
    unet = deep_unet()
    adapter = random_adapter(unet, ATTENTION)
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(spelled(unet, adapter, "kohya"))
    theirs = fitted(AdapterFile(converted), unet, contract("structure"))
    assert theirs.keys() == adapter.keys() and len(alphas) == len(adapter)
    assert all(
        torch.equal(theirs[name].down, low.down) and torch.equal(theirs[name].up, low.up)
        for name, low in adapter.items()
    )


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if not any(part in key for part in parts)}


def also(key: str, value: Tensor | None = None) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {key: torch.ones(2, 2) if value is None else value}


def changed(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: change(value).contiguous() if part in key else value for key, value in tensors.items()}


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k"
INSIDE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
FACTOR = f"{LAYER}.lora_down"
REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "half of the matrices": (
        without("down_blocks_1", "attn1_to_q.lora_up"),
        r"only \d+ of its \d+ layers are whole, \S+ has no matrix B",
    ),
    "no A at all": (without("lora_down"), r"only 0 of its 32 layers are whole, \S+ has no matrix A"),
    "no B at all": (without("lora_up"), r"only 0 of its 32 layers are whole, \S+ has no matrix B"),
    "an alpha alone": (without(f"{LAYER}.lora"), rf"only 31 of its 32 layers are whole, {INSIDE} has no matrix A"),
    "layers of another network": (
        lambda tensors: (
            tensors | {key.replace("mid", "mid_7"): value for key, value in tensors.items() if "mid" in key}
        ),
        r"only 32 of its 40 layers are layers of this network, lora_unet_mid_7_\S+ is none",
    ),
    "NaN": (changed(FACTOR, lambda value: value * float("nan")), rf"{FACTOR}.weight holds values that are not finite"),
    "infinity": (changed(FACTOR, lambda value: value / 0), rf"{FACTOR}.weight holds values that are not finite"),
    "too wide": (
        changed(FACTOR, lambda value: value.repeat(1, 2)),
        rf"the matrices of {INSIDE} are \(\d, 64\) and \(32, \d\), but \(r, 32\) and \(32, r\)",
    ),
    "two ranks": (changed(FACTOR, lambda value: value.repeat(2, 1)), rf"the matrices of {INSIDE} are"),
    "rank 0": (changed(FACTOR, lambda value: value[:0]), rf"the rank of {INSIDE} is 0"),
    "one number in the place of a matrix": (
        changed(FACTOR, lambda value: value[0, 0]),
        rf"the matrices of {INSIDE} are \(\)",
    ),
    "integers": (changed(FACTOR, lambda value: value.to(torch.int8)), "its matrices are int8, but floating point"),
    "an alpha of NaN": (
        changed(f"{LAYER}.alpha", lambda value: value * float("nan")),
        rf"the alpha of {INSIDE} is nan",
    ),
    "an alpha of 0": (changed(f"{LAYER}.alpha", lambda value: value * 0), rf"the alpha of {INSIDE} is 0.0"),
    "two alphas": (
        changed(f"{LAYER}.alpha", lambda value: value.repeat(2)),
        rf"the alpha of {INSIDE} must be one number, not 2",
    ),
    "the same layer twice": (also(f"unet.{INSIDE}.lora_A.weight"), rf"it says twice what {INSIDE} gets"),
    "DoRA": (also(f"{LAYER}.dora_scale"), r"it is DoRA \(.*\), and only LoRA is read"),
    "DoRA by peft": (also(f"unet.{INSIDE}.lora_magnitude_vector"), "it is DoRA"),
    "LoHa": (also(f"{LAYER}.hada_w1_a"), "it is LoHa"),
    "LoKr": (also(f"{LAYER}.lokr_w1"), "it is LoKr"),
    "Tucker": (also(f"{LAYER}.lora_mid.weight"), "it is LoCon with a core"),
    "a bias": (also(f"unet.{INSIDE}.lora_B.bias"), r"its key unet\.\S+lora_B.bias is no matrix"),
    "a whole weight": (also("conv_in.weight"), "its key conv_in.weight is no matrix and no alpha of a LoRA"),
    "nothing": (lambda tensors: {}, "it holds no matrices"),
    "text encoders": (
        also("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"),
        r"1 of its 97 tensors are for text encoders \(first lora_te_\S+\), which are not adapted here",
    ),
}


@subtests.parametrize("kind", REFUSED)
def test_what_can_not_be_used_is_refused_in_one_sentence_and_changes_nothing(kind, tmp_path) -> None:
    change, sentence = REFUSED[kind]
    unet = stable_diffusion_unet()
    tensors = change(spelled(unet, random_adapter(unet, ATTENTION), "kohya"))
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"does not fit the structure generator: .*{sentence}") as caught:
        read(tmp_path / "a.safetensors", unet)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
    assert not has_lora(unet) and unet.state_dict().keys() == stable_diffusion_unet().state_dict().keys()


@checks
def a_file_with_text_encoders_is_loaded_without_them_if_that_is_said(tmp_path) -> None:
    unet = stable_diffusion_unet()
    adapter = random_adapter(unet, ATTENTION)
    text = {
        f"text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{side}.weight": torch.ones(2, 2)
        for side in ("down", "up")
    }
    save_file(spelled(unet, adapter, "attention_processors") | text, tmp_path / "a.safetensors")
    read(tmp_path / "a.safetensors", unet, drop_text=True)
    assert taken_layers(unet, ADAPTER).keys() == adapter.keys()


def test_the_configuration_of_peft_gives_alphas_and_says_what_is_missing(tmp_path) -> None:
    """In the header, as diffusers writes it, or in a file beside, as peft does."""
    plain = stable_diffusion_unet()
    adapter = random_adapter(plain, ATTENTION)
    whole = without(".alpha")(spelled(plain, adapter, "peft"))
    facts = {
        "lora_alpha": 3.0,
        "alpha_pattern": {"attn2.to_k": 5.0},
        "target_modules": list(ATTENTION),
        "use_rslora": True,
        "r": 2,
    }

    def write(tensors: Tensors, **changes: Any) -> Path:
        packed = {f"unet.{key}": value for key, value in (facts | changes).items()} | {"text_encoder.r": 8}
        save_file(tensors, tmp_path / "header.safetensors", {"lora_adapter_metadata": json.dumps(packed)})
        (tmp_path / "peft").mkdir(exist_ok=True)
        save_file(tensors, tmp_path / "peft/adapter_model.safetensors")
        (tmp_path / "peft/adapter_config.json").write_text(json.dumps(facts | changes))
        return tmp_path

    write(whole)
    for file in (tmp_path / "header.safetensors", find_weights(tmp_path / "peft")):
        unet = stable_diffusion_unet()
        read(file, unet)
        fuse_lora(unet)
        alphas = {name: (5.0 if name.endswith("attn2.to_k") else 3.0) * low.rank**0.5 for name, low in adapter.items()}
        expected = by_hand(plain, {name: type(low)(low.down, low.up, alphas[name]) for name, low in adapter.items()})
        for name, weight in unet.state_dict().items():
            torch.testing.assert_close(weight.double(), expected[name], **CLOSE)
        write(without(INSIDE)(whole))
        with pytest.raises(
            UserError, match=rf"only 31 of the 32 layers that its configuration names are there, {INSIDE} is not"
        ):
            read(file, stable_diffusion_unet())
        write(whole, use_dora=True)
        with pytest.raises(UserError, match="it is DoRA by its configuration"):
            read(file, stable_diffusion_unet())
        write(whole, alpha_pattern=[1])
        with pytest.raises(UserError, match="its configuration is not that of peft"):
            read(file, stable_diffusion_unet())
        write(whole)


@checks
def one_by_one_convolutions_and_linear_layers_are_written_either_way() -> None:
    for unet in (stable_diffusion_unet(), linear_unet()):
        adapter = random_adapter(unet, ("proj_in", "proj_out"))
        other = {
            key: value if not value.ndim else value[:, :, None, None] if value.ndim == 2 else value[:, :, 0, 0]
            for key, value in spelled(unet, adapter, "kohya").items()
        }
        layers = fitted(AdapterFile(other), unet, contract("structure"))
        assert all(
            torch.equal(layers[name].down, low.down) and torch.equal(layers[name].up, low.up)
            for name, low in adapter.items()
        )


def test_an_adapter_takes_the_type_of_its_network_and_leaves_its_source_alone() -> None:
    unet = stable_diffusion_unet().half()
    tensors = spelled(unet, random_adapter(stable_diffusion_unet(), ATTENTION), "kohya")
    layers = fitted(AdapterFile(tensors), unet, contract("structure"))
    assert {low.down.dtype for low in layers.values()} == {torch.float16}
    large = changed("lora_up", lambda value: value * 1e6)(tensors)
    with pytest.raises(UserError, match="not finite in float16"):
        fitted(AdapterFile(large), unet, contract("structure"))
    whole = stable_diffusion_unet()
    put_adapter(whole, ADAPTER, fitted(AdapterFile(tensors), whole, contract("structure")))
    before = {key: value.clone() for key, value in tensors.items()}
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)


def test_the_file_of_an_adapter_is_found_or_one_sentence_says_why_not(tmp_path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    assert find_weights(tmp_path, "two.safetensors") == tmp_path / "two.safetensors"
    with pytest.raises(UserError, match=r"holds several files \(one.safetensors, two.safetensors\); say which one"):
        find_weights(tmp_path)
    (tmp_path / "two.safetensors").rename(tmp_path / "two.bin")
    assert find_weights(tmp_path) == tmp_path / "one.safetensors"
    (tmp_path / "one.safetensors").unlink()
    for source in (tmp_path, tmp_path / "two.bin"):
        with pytest.raises(UserError, match=r"two.bin is a pickle, which may run code"):
            find_weights(source)
    for source in (tmp_path / "three.safetensors", tmp_path / "none"):
        with pytest.raises(UserError, match="There is no adapter at"):
            find_weights(source)


test_lora_formats = checks.test()
