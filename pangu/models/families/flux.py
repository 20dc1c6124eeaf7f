"""FLUX.1."""

from typing import Any

import torch
from torch import Tensor

from pangu.config.denoiser_shapes import FluxShape
from pangu.models.families.family import DenoiserFamily, DenoiserInput, exact_timestep
from pangu.models.families.packing import grid_positions, pack, unpack

SCALE = 1000
"""The class multiplies what it is told by this before it embeds it."""


class FluxFamily(DenoiserFamily):
    """`FluxTransformer2DModel`: 2 x 2 latents make one token; text and image share the later blocks.

    Positions turn queries and keys, so that only distances count: those within a window are those within the whole picture.
    """

    name = "flux"
    shape = FluxShape
    network_class = "FluxTransformer2DModel"
    blocks = ("FluxTransformerBlock", "FluxSingleTransformerBlock")
    lora_targets = (*DenoiserFamily.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    attention_argument = "joint_attention_kwargs"
    size_told = "none: it reads the size from distances between tokens"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "num_layers": shape.num_layers,
            "num_single_layers": shape.num_single_layers,
            "attention_head_dim": shape.attention_head_dim,
            "num_attention_heads": shape.num_attention_heads,
            "joint_attention_dim": context,
            "pooled_projection_dim": pooled,
            "axes_dims_rope": shape.axes_dims_rope,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        noisy, timestep_b = asked.noisy_bchw, asked.timestep_b.float() / SCALE
        height, width = noisy.shape[2:]
        inner = getattr(network, "module", network)
        with exact_timestep(inner.time_text_embed, timestep_b * SCALE):
            found = network(
                hidden_states=pack(noisy),
                timestep=timestep_b,
                guidance=self.guidance_of(config, asked),
                pooled_projections=asked.pooled_bp,
                encoder_hidden_states=asked.tokens_bsc,
                txt_ids=torch.zeros(asked.tokens_bsc.shape[1], 3, device=noisy.device),
                img_ids=grid_positions(height // 2, width // 2, noisy.device),
                return_dict=False,
                **self.attention(asked),
            )[0]
        return unpack(found, height, width)

    def latent_channels(self, config: Any) -> int:
        return int(config["in_channels"]) // 4

    def latent_arguments(self, latent_channels: int) -> dict[str, Any]:
        return {"in_channels": 4 * latent_channels, "out_channels": None}

    def size_step(self, config: Any) -> int:
        return 2

    def text_channels(self, config: Any) -> int:
        return int(config["joint_attention_dim"])

    def pooled_channels(self, config: Any) -> int | None:
        return int(config["pooled_projection_dim"])
