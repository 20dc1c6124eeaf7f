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
from tests import subtests
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


@subtests.parametrize(
    ("make", "tensors", "sentence"),
    [
        # diffusers reads the last layer of FLUX without its alpha.
        (
            flux,
            kohya_flux(final_layer_linear=(16, 32)),
            r"only 2 of its 3 layers are read by diffusers' .* lora_unet_final",
        ),
        (flux, kohya_flux(double_blocks_7_txt_mlp_0=(128, 32)), r"only \d of its \d layers are layers of this network"),
        (flux, kohya_flux(triple_blocks_0_mlp=(32, 32)), "diffusers' converter does not know how it is spelled"),
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
