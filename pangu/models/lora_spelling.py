"""Adapters written as kohya's trainers and ComfyUI spell them; diffusers' own spelling is `pangu.models.lora.save_lora`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pangu.models.lora_formats import LowRank
from pangu.models.original_names import original_name, original_prefixes


def kohya_tensors(adapter: Mapping[str, LowRank], network: Any) -> dict[str, Tensor]:
    """What a file of kohya's holds: `lora_unet_LAYER.lora_down.weight`, `.lora_up.weight` and `.alpha` for every layer.

    Layers are called by the names of the original code where the network is conditioned as SDXL is, and by those of diffusers
    elsewhere, as kohya's trainers do.
    """
    prefixes = original_prefixes(network) if network.config.get("addition_embed_type") == "text_time" else {}
    tensors = {}
    for name, low in adapter.items():
        layer = f"lora_unet_{original_name(name, prefixes).replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"] = low.down.detach().cpu().contiguous()
        tensors[f"{layer}.lora_up.weight"] = low.up.detach().cpu().contiguous()
        tensors[f"{layer}.alpha"] = torch.tensor(float(low.alpha))
    return tensors
