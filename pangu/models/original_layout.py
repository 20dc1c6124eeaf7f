"""A UNet of diffusers in the layout of the original code of Stable Diffusion and SDXL, which others load from a single file.

The inverse of diffusers' `convert_ldm_unet_checkpoint`, by which `from_single_file` reads. The layout has weights and no
configuration: a reader takes everything else from what the original code does, so a UNet that does something else is refused.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pangu.errors import UserError
from pangu.models.denoisers import condition_of
from pangu.models.original_names import original_name, original_prefixes

PREFIX = "model.diffusion_model."
HEADS, HEAD_CHANNELS, NUMBER_CHANNELS = 8, 64, 256
"""Attention heads of Stable Diffusion 1, channels of a head of Stable Diffusion 2 and SDXL, channels of each number of a size."""

ORIGINAL: dict[str, Any] = {
    "act_fn": "silu", "attention_type": "default", "center_input_sample": False, "class_embed_type": None,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_norm": None, "downsample_padding": 1,
    "dual_cross_attention": False, "encoder_hid_dim": None, "encoder_hid_dim_type": None, "flip_sin_to_cos": True,
    "freq_shift": 0, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5,
    "norm_num_groups": 32, "num_attention_heads": None, "num_class_embeds": None, "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None, "time_cond_proj_dim": None, "time_embedding_act_fn": None,
    "time_embedding_dim": None, "time_embedding_type": "positional", "timestep_post_act": None,
}  # fmt: skip
"""What the original code does, by the names of diffusers' configuration."""


def check_layout(config: Mapping[str, Any], pooled: int | None = None) -> None:
    """Raises UserError if no original code has a UNet of that configuration; the sentence says what it lacks.

    pooled: channels of the pooled text that it is given, where that is known.
    """
    if trouble := _trouble(config, pooled):
        raise UserError(f"No original layout has such a UNet: {trouble}; export it as diffusers' components.")


def original_weights(unet: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their names in the original layout, behind `model.diffusion_model.`; the tensors are the same ones.

    unet: the network that they are of, which may be on the meta device.

    Raises:
        UserError: no original layout has such a network.
    """
    check_layout(unet.config)
    prefixes = original_prefixes(unet)
    found = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        found[f"{PREFIX}{original_name(layer, prefixes)}.{kind}"] = tensor
    return found


def _trouble(config: Mapping[str, Any], pooled: int | None) -> str:
    for name, there in ORIGINAL.items():
        value = config.get(name, there)
        value = value[0] if isinstance(value, list | tuple) and len({*value}) == 1 else value
        if value != there:
            return f"it has {name} = {value}, and the original code {there}"
    return _trouble_of_blocks(config) or _trouble_of_heads(config) or _trouble_of_condition(config, pooled)


def _trouble_of_blocks(config: Mapping[str, Any]) -> str:
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    kinds = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
    unknown = [kind for kind in down if kind not in kinds]
    if unknown:
        return f"it has a {unknown[0]}, and the original code {' and '.join(kinds)} alone"
    if up != [kinds[kind] for kind in reversed(down)]:
        return "its up blocks are not its down blocks turned round"
    channels = list(config["block_out_channels"])
    if uneven := [width for width in channels if width % channels[0]]:
        return f"its levels are {', '.join(map(str, channels))} channels wide, and {uneven[0]} is no multiple of {channels[0]}"
    if not isinstance(config["layers_per_block"], int):
        return f"its levels have {config['layers_per_block']} layers, and those of the original code all have as many"
    if not isinstance(config["cross_attention_dim"], int):
        return (
            f"its levels attend to {config['cross_attention_dim']} channels of text, and the original ones to as many"
        )
    return ""


def _trouble_of_heads(config: Mapping[str, Any]) -> str:
    """diffusers' `attention_head_dim` is the number of heads."""
    channels, heads = list(config["block_out_channels"]), config["attention_head_dim"]
    numbers = [heads] * len(channels) if isinstance(heads, int) else list(heads)
    wanted = (
        [width // HEAD_CHANNELS for width in channels]
        if config.get("use_linear_projection")
        else [HEADS] * len(channels)
    )
    if numbers != wanted:
        return f"it has {numbers} attention heads by level, and the original code {wanted}"
    return ""


def _trouble_of_condition(config: Mapping[str, Any], pooled: int | None) -> str:
    kind = config.get("addition_embed_type")
    if kind is None:
        return ""
    if kind != "text_time":
        return f"it is conditioned on {kind}"
    if config["addition_time_embed_dim"] != NUMBER_CHANNELS:
        return f"its numbers are embedded in {config['addition_time_embed_dim']} channels each, and SDXL's in {NUMBER_CHANNELS}"
    if pooled is not None and condition_of(config, pooled) != "size":
        return "it is conditioned on the index of a resolution preset, and SDXL on sizes"
    return ""
