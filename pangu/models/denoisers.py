"""The denoiser of a generator: diffusers' conditional UNet, shaped by the recipe.

Conditioned like PanGu-Draw's (Section 3.3): cross-attention on the text tokens; the pooled text embedding and the sinusoidal
embedding of the resolution preset's INDEX are added to the time embedding.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from pangu.config import DenoiserConfig


def denoiser_config(config: DenoiserConfig, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel for latents of `latent_channels` and text of (`context`, `pooled`) channels."""
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(config.attention)]
    return {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "transformer_layers_per_block": config.transformer_layers_per_block,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if config.attention[-1] else "UNetMidBlock2D",
        # diffusers' `attention_head_dim` means the NUMBER of heads, one entry a level.
        "attention_head_dim": tuple(max(1, width // config.attention_head_dim) for width in config.block_out_channels),
        "norm_num_groups": config.norm_num_groups,
        "cross_attention_dim": context,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": config.preset_embed_dim,
        "projection_class_embeddings_input_dim": pooled + config.preset_embed_dim,
    }


def build_denoiser(config: DenoiserConfig, latent_channels: int, context: int, pooled: int) -> UNet2DConditionModel:
    """A freshly initialised denoiser; wrap in `torch.device('meta')` to count a large one without memory."""
    return UNet2DConditionModel(**denoiser_config(config, latent_channels, context, pooled))


def denoise(
    unet: UNet2DConditionModel,
    noisy_bchw: Tensor,
    timestep_b: Tensor,
    tokens_bnc: Tensor,
    pooled_bp: Tensor,
    preset: int,
) -> Tensor:
    """One prediction (B, C, H, W): `preset` is the index of the resolution preset of the whole batch."""
    presets = torch.full((len(noisy_bchw), 1), float(preset), device=noisy_bchw.device, dtype=pooled_bp.dtype)
    return unet(
        noisy_bchw,
        timestep_b,
        encoder_hidden_states=tokens_bnc,
        added_cond_kwargs={"text_embeds": pooled_bp, "time_ids": presets},
        return_dict=False,
    )[0]
