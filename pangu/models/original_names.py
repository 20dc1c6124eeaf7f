"""What the layers of a diffusers UNet are called in the original code of Stable Diffusion and SDXL.

`original_layout` writes whole networks by these names, `lora_formats` reads adapters by them. diffusers has the opposite, for
whole checkpoints (`convert_ldm_unet_checkpoint`); a test holds the two together. Its `_maybe_map_sgm_blocks_to_diffusers`, for
adapters, takes `input_blocks_10` for a part of `input_blocks_1`.
"""

from collections.abc import Mapping
from typing import Any

OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
INSIDE = {
    ".norm1": ".in_layers.0",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
    ".norm2": ".out_layers.0",
    ".conv2": ".out_layers.3",
    ".conv_shortcut": ".skip_connection",
}
"""Within a residual block."""


def original_prefixes(unet: Any) -> dict[str, str]:
    """{name of a block here: its name there}; the original numbers the blocks of all levels in one row."""
    names = dict(OUTSIDE)
    number = 1
    for level, block in enumerate(getattr(unet, "down_blocks", ())):
        for index in range(len(block.resnets)):
            names |= _pair(f"down_blocks.{level}", index, f"input_blocks.{number}")
            number += 1
        if getattr(block, "downsamplers", None):
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, block in enumerate(getattr(unet, "up_blocks", ())):
        for index in range(len(block.resnets)):
            names |= _pair(f"up_blocks.{level}", index, f"output_blocks.{number}")
            number += 1
        if getattr(block, "upsamplers", None):
            place = 2 if getattr(block, "attentions", None) else 1
            names[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{place}"
    return names


def original_name(name: str, prefixes: Mapping[str, str]) -> str:
    """The name of a layer there; its own where the original has no such block. name: of a layer, without `.weight`."""
    for ours, theirs in prefixes.items():
        rest = name.removeprefix(ours)
        if name.startswith(ours) and (not rest or rest.startswith(".")):
            return theirs + INSIDE.get(rest, rest)
    return name


def _pair(block: str, index: int, place: str) -> dict[str, str]:
    return {f"{block}.resnets.{index}": f"{place}.0", f"{block}.attentions.{index}": f"{place}.1"}
