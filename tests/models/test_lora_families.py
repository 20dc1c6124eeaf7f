"""Adapters in the spellings of others: written for kohya's readers, and read for transformers without losing anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

from pangu.config import InitialWeights, NoiseSchedule
from pangu.errors import UserError
from pangu.models.init_weights import pretrained_denoiser
from pangu.models.lora import ADAPTER, fitted, fuse_lora, put_adapter, save_lora
from pangu.models.lora_files import AdapterFile, find_weights
from pangu.models.lora_spelling import kohya_tensors
from pangu.models.original_transformers import parts_of_original
from tests import subtests
from tests.exchange.test_import_transformers import qwen_image, sana, wan, z_image
from tests.models.adapter_files import ATTENTION, by_hand, linear_unet, random_adapter
from tests.models.test_initial import contract
from tests.models.unets import stable_diffusion_unet, write_pipeline
from tests.pipelines.coop.small import flux, stable_diffusion_3

CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}


@subtests.parametrize(
    ("make", "pipeline", "spelled"),
    [
        (stable_diffusion_unet, StableDiffusionPipeline, "lora_unet_mid_block_attentions_0_"),
        (linear_unet, StableDiffusionXLPipeline, "lora_unet_middle_block_1_"),
    ],
)
def test_an_adapter_goes_to_kohyas_spelling_and_back(make, pipeline, spelled, tmp_path: Path) -> None:
    """Ours, and diffusers' own reader of such files, find the same matrices again; and so does the way back through diffusers'.

    All alphas are one: diffusers 0.42 takes one for all layers of a file.
    """
    unet = make()
    adapter = {name: replace(low, alpha=3.0) for name, low in random_adapter(unet, ATTENTION).items()}
    save_file(kohya_tensors(adapter, unet), tmp_path / "kohya.safetensors")
    again = fitted(tmp_path / "kohya.safetensors", unet, contract("structure"))
    assert any(key.startswith(spelled) for key in kohya_tensors(adapter, unet))
    assert same(again, adapter)
    state, alphas = pipeline.lora_state_dict(
        tmp_path, weight_name="kohya.safetensors", unet_config=unet.config, local_files_only=True
    )
    theirs = make()
    pipeline.load_lora_into_unet(state, alphas, theirs)
    fuse_lora(theirs)
    for name, weight in by_hand(unet, adapter).items():
        torch.testing.assert_close(theirs.state_dict()[name].double(), weight, **CLOSE)
    put_adapter(unet, ADAPTER, again)
    save_lora(unet, contract("structure"), tmp_path / "diffusers")
    assert same(fitted(find_weights(tmp_path / "diffusers"), make(), contract("structure")), adapter)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].down, low.down) and torch.equal(one[name].up, low.up) and one[name].alpha == low.alpha
        for name, low in other.items()
    )


def kohya_flux(**more: tuple[int, int]) -> dict[str, Tensor]:
    """Matrices of rank 6 and alpha 3 by the names of FLUX's original code, for the small network of the tests."""
    layers = {"double_blocks_0_img_attn_qkv": (96, 32), "double_blocks_0_txt_mlp_0": (128, 32)} | more
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in layers.items():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(6, inputs, generator=generator)
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(outputs, 6, generator=generator)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(3.0)
    return tensors


def xlabs_flux(double_blocks: int = 1) -> dict[str, Tensor]:
    """As XLabs' trainer spells it: both streams of each double block, of rank 4, without an alpha."""
    shapes = {"qkv": (96, 32), "proj": (32, 32)}
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for block in range(double_blocks):
        for part, (outputs, inputs) in shapes.items():
            for stream in (1, 2):
                layer = f"double_blocks.{block}.processor.{part}_lora{stream}"
                tensors[f"{layer}.down.weight"] = torch.randn(4, inputs, generator=generator)
                tensors[f"{layer}.up.weight"] = torch.randn(outputs, 4, generator=generator)
    return tensors


def test_transformers_adapters_mean_what_their_matrices_say() -> None:
    """One matrix for query, key and value of the original becomes three layers here; each gets alpha / rank * B A."""
    network, tensors = flux().transformer, kohya_flux()
    layers = fitted(AdapterFile(tensors), network, contract("structure"))
    block = "transformer_blocks.0"
    parts = [f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v"]
    assert layers.keys() == {*parts, f"{block}.ff_context.net.0.proj"}

    def product(name: str) -> Tensor:
        low = layers[name]
        return low.alpha / low.rank * low.up @ low.down

    def written(name: str) -> Tensor:
        return 0.5 * tensors[f"lora_unet_{name}.lora_up.weight"] @ tensors[f"lora_unet_{name}.lora_down.weight"]

    joint = torch.cat([product(name) for name in parts])
    torch.testing.assert_close(joint, written("double_blocks_0_img_attn_qkv"), **CLOSE)
    torch.testing.assert_close(product(f"{block}.ff_context.net.0.proj"), written("double_blocks_0_txt_mlp_0"), **CLOSE)

    for other in (network, stable_diffusion_3().transformer):
        adapter = random_adapter(other, ("attn.to_q", "attn.to_k"))
        spelled = {}
        for name, low in adapter.items():
            spelled |= {f"transformer.{name}.lora_A.weight": low.down, f"transformer.{name}.lora_B.weight": low.up}
            spelled[f"transformer.{name}.alpha"] = torch.tensor(low.alpha)
        assert same(fitted(AdapterFile(spelled), other, contract("structure")), adapter)


def spelled(style: str, layers: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Matrices of rank 4 for layers of the original code, and alphas of 2 where the style has them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in layers.items():
        down, up = torch.randn(4, inputs, generator=generator), torch.randn(outputs, 4, generator=generator)
        layer = f"lora_unet_{name.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{name}"
        sides = ("lora_A", "lora_B") if style == "comfyui" else ("lora_down", "lora_up")
        tensors |= {f"{layer}.{sides[0]}.weight": down, f"{layer}.{sides[1]}.weight": up}
        tensors |= {f"{layer}.alpha": torch.tensor(2.0)} if style == "kohya" else {}
    return tensors


ORIGINAL_LAYERS: dict[str, tuple[Any, dict[str, tuple[int, int]]]] = {
    "flux": (flux, {"double_blocks.0.img_attn.qkv": (96, 32), "single_blocks.0.linear1": (224, 32),
                    "final_layer.linear": (16, 32), "final_layer.adaLN_modulation.1": (64, 32)}),
    "sd3": (stable_diffusion_3, {"joint_blocks.0.x_block.attn.qkv": (48, 16), "joint_blocks.0.context_block.attn.qkv": (48, 16)}),
    "wan": (wan, {"blocks.0.self_attn.q": (24, 24), "blocks.0.cross_attn.o": (24, 24), "blocks.0.ffn.0": (24, 24)}),
    "z_image": (z_image, {"layers.0.attention.qkv": (96, 32), "layers.0.attention.out": (32, 32)}),
    "qwen_image": (qwen_image, {"transformer_blocks.0.attn.to_q": (32, 32), "transformer_blocks.0.attn.add_q_proj": (32, 32)}),
    "sana": (sana, {"blocks.0.attn.qkv": (48, 16), "blocks.0.cross_attn.kv_linear": (32, 16)}),
}  # fmt: skip


@subtests.parametrize("style", ["kohya", "comfyui"])
@subtests.parametrize("kind", sorted(ORIGINAL_LAYERS))
def test_adapters_by_the_names_of_the_original_code_do_what_they_would_do_there(kind: str, style: str) -> None:
    """The weights of the network with the adapter are, in the original layout, W + alpha / rank * B A."""
    make, shapes = ORIGINAL_LAYERS[kind]
    network = make().transformer
    before, tensors = parts_of_original(network, network.state_dict()), spelled(style, shapes)
    plain = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = fitted(AdapterFile(tensors), network, contract("structure"), "ink")
    changed = dict(plain)
    for name, low in layers.items():
        changed[f"{name}.weight"] = changed[f"{name}.weight"] + low.alpha / low.rank * low.up @ low.down
    moved = {name for name in plain if not torch.equal(plain[name], changed[name])}
    expected = {
        name for name, each in before.items() if any(part[0].removesuffix(".weight") in shapes for part in each.parts)
    }
    assert moved == {name for name in expected if name.endswith(".weight")}
    for original, (outputs, _) in shapes.items():
        key = f"lora_unet_{original.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{original}"
        up, down = (tensors[f"{key}.{ends}"] for ends in UP_AND_DOWN[style])
        pieces: dict[int, Tensor] = {}
        for name, each in before.items():
            cut = (changed[name] - plain[name]).chunk(len(each.parts))
            own = zip(each.parts, cut, strict=True)
            pieces |= {index: piece for (there, index, _), piece in own if there == f"{original}.weight"}
        whole = torch.cat([pieces[index] for index in sorted(pieces)])
        assert len(whole) == outputs
        torch.testing.assert_close(whole, (0.5 if style == "kohya" else 1.0) * up @ down, rtol=0, atol=1e-4)
    one = next(iter(tensors))
    halves = tensors | {key.replace("0.", "7.").replace("_0_", "_7_"): tensor for key, tensor in tensors.items()}
    with pytest.raises(UserError, match=r"only \d of its \d layers are layers of this network, .* is none"):
        fitted(AdapterFile(halves), network, contract("structure"), "ink")
    with pytest.raises(UserError, match=r"only \d of its \d layers are whole"):
        fitted(
            AdapterFile({key: tensor for key, tensor in tensors.items() if key != one}),
            network,
            contract("structure"),
            "ink",
        )


UP_AND_DOWN = {"kohya": ("lora_up.weight", "lora_down.weight"), "comfyui": ("lora_B.weight", "lora_A.weight")}


def test_xlabs_adapters_of_flux_are_read_by_diffusers_converter() -> None:
    tensors = xlabs_flux()
    layers = fitted(AdapterFile(tensors), flux().transformer, contract("structure"), "ink")
    block = "transformer_blocks.0.attn"
    parts = [f"{block}.{name}" for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")]
    assert layers.keys() == {*parts, f"{block}.to_out.0", f"{block}.to_add_out"}
    there = "double_blocks.0.processor.qkv_lora1"
    joint = torch.cat(
        [layers[name].alpha / layers[name].rank * layers[name].up @ layers[name].down for name in parts[:3]]
    )
    torch.testing.assert_close(joint, tensors[f"{there}.up.weight"] @ tensors[f"{there}.down.weight"], **CLOSE)


@subtests.parametrize(
    ("make", "tensors", "sentence"),
    [
        (
            flux,
            xlabs_flux(double_blocks=7),
            r"only 8 of its 56 layers are layers of this network, .* is none",
        ),
        (flux, kohya_flux(double_blocks_7_txt_mlp_0=(128, 32)), r"only \d of its \d layers are layers of this network"),
        (
            flux,
            kohya_flux(triple_blocks_0_mlp=(32, 32)),
            r"only 2 of its 3 layers are layers of this network, .*triple_blocks_0_mlp is none",
        ),
        (
            flux,
            {k: v for k, v in kohya_flux(triple_blocks_0_mlp=(32, 32)).items() if "triple" in k},
            "diffusers' converter does not know how it is spelled",
        ),
        (flux, {k: v for k, v in kohya_flux().items() if "mlp_0.lora_up" not in k}, "only 1 of its 2 layers are whole"),
        (stable_diffusion_3, kohya_flux(), r"only 0 of its 2 layers are layers of this network"),
    ],
)
def test_an_adapter_of_which_a_part_would_be_lost_is_refused(make, tensors, sentence) -> None:
    network = make().transformer
    with pytest.raises(UserError, match=sentence) as refused:
        fitted(AdapterFile(tensors), network, contract("structure"), "flux.safetensors")
    assert "\n" not in str(refused.value)


def test_a_recipe_starts_from_weights_with_an_adapter_in_them_or_not_at_all(tmp_path: Path) -> None:
    unet = stable_diffusion_unet(4)
    write_pipeline(tmp_path / "sd", unet)
    adapter = random_adapter(unet, ATTENTION)
    tensors = kohya_tensors(adapter, unet)
    save_file(tensors, tmp_path / "ink.safetensors")
    start = InitialWeights(source=str(tmp_path / "sd"), adapter=str(tmp_path / "ink.safetensors"))
    run = contract("structure", schedule=NoiseSchedule())
    for name, weight in pretrained_denoiser(start, 4, 24, 12, run).state_dict().items():
        torch.testing.assert_close(weight.double(), by_hand(unet, adapter)[name], **CLOSE)
    halves = {
        key.replace("mid_block", "mid_7") if "attn1_to_k" in key else key: value for key, value in tensors.items()
    }
    save_file(halves, tmp_path / "ink.safetensors")
    with pytest.raises(
        UserError, match=r"only \d+ of its 32 layers are layers of this network, lora_unet_mid_7_\S+ is none"
    ):
        pretrained_denoiser(start, 4, 24, 12, run)
    assert "adapter" not in InitialWeights(source="embedded").model_dump(), "digests of recipes stay what they were"
