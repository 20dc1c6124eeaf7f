"""Random adapters on small UNets, spelled as each trainer spells them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pangu.models.lora_formats import LowRank, adaptable_layers
from pangu.models.original_names import original_name, original_prefixes
from tests.models.unets import sdxl_unet, stable_diffusion_unet

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FORMATS = (
    "peft", "peft_bare", "peft_base_model", "peft_named", "peft_original", "diffusers", "attention_processors", "kohya",
    "kohya_original",
)  # fmt: skip


def deep_unet() -> Any:
    """Twelve input blocks, as Stable Diffusion 1.5 has them, so `input_blocks_1` begins the names of others."""
    down, up = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    return stable_diffusion_unet(
        block_out_channels=(8, 8, 16, 16), layers_per_block=2, down_block_types=down, up_block_types=up
    )


def linear_unet() -> Any:
    """Linear layers around the transformers, as SDXL has them."""
    return sdxl_unet(use_linear_projection=True)


def random_adapter(unet: Any, endings: tuple[str, ...] = (), seed: int = 0) -> dict[str, LowRank]:
    """Matrices for every layer whose name ends so; ranks and alphas differ from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    adapter = {}
    for number, (name, layer) in enumerate(adaptable_layers(unet).items()):
        if endings and not name.endswith(endings):
            continue
        outputs, *inputs = layer.weight.shape
        rank = 2 + number % 3
        adapter[name] = LowRank(
            0.3 * torch.randn(rank, *inputs, generator=generator),
            0.3 * torch.randn(outputs, rank, *[1] * (len(inputs) - 1), generator=generator),
            0.5 + number % 4,
        )
    return adapter


def spelled(unet: Any, adapter: Mapping[str, LowRank], form: str) -> dict[str, Tensor]:
    """What a file of that format holds."""
    tensors = {}
    prefixes = original_prefixes(unet)
    for name, low in adapter.items():
        there = original_name(name, prefixes)
        block, _, last = name.replace("to_out.0", "to_out").rpartition(".")
        layer, down, up = {
            "peft": (f"unet.{name}", "lora_A", "lora_B"),
            "peft_bare": (name, "lora_A", "lora_B"),
            "peft_base_model": (f"base_model.model.{name}", "lora_A", "lora_B"),
            "peft_named": (f"unet.{name}", "lora_A.default", "lora_B.default"),
            "peft_original": (f"diffusion_model.{there}", "lora_A", "lora_B"),
            "diffusers": (f"unet.{name}", "lora.down", "lora.up"),
            "attention_processors": (f"unet.{block}.processor.{last}", "lora.down", "lora.up"),
            "kohya": (f"lora_unet_{name.replace('.', '_')}", "lora_down", "lora_up"),
            "kohya_original": (f"lora_unet_{there.replace('.', '_')}", "lora_down", "lora_up"),
        }[form]
        joint = "_" if form == "attention_processors" else "."
        tensors[f"{layer}{joint}{down}.weight"] = low.down
        tensors[f"{layer}{joint}{up}.weight"] = low.up
        tensors[f"{layer}.alpha"] = torch.tensor(low.alpha)
    return tensors


def by_hand(unet: Any, adapter: Mapping[str, LowRank], scale: float = 1.0) -> dict[str, Tensor]:
    """The weights of the UNet plus scale * alpha / rank * B A, in double precision."""
    weights = {name: tensor.double() for name, tensor in unet.state_dict().items()}
    for name, low in adapter.items():
        product = torch.einsum("or,r...->o...", low.up.double().flatten(1), low.down.double())
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + scale * low.alpha / len(low.down) * product
    return weights
