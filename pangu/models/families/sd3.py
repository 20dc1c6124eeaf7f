"""Stable Diffusion 3 and 3.5: the MMDiT (arXiv 2403.03206)."""

from typing import Any

from torch import Tensor

from pangu.config.denoiser_shapes import SD3Shape
from pangu.models.families.family import DenoiserFamily, DenoiserInput


class SD3Family(DenoiserFamily):
    """`SD3Transformer2DModel`: text and image attend to each other with weights of their own; pooled text modulates both.

    Positions are cut from the middle of a table: a window of 8 x 8 latents has those of the middle of a larger picture.
    """

    name = "sd3"
    shape = SD3Shape
    network_class = "SD3Transformer2DModel"
    blocks = ("JointTransformerBlock",)
    lora_targets = (*DenoiserFamily.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    attention_argument = "joint_attention_kwargs"
    size_told = "none: it reads the size from positions, counted from the middle"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "sample_size": shape.sample_size,
            "patch_size": shape.patch_size,
            "num_layers": shape.num_layers,
            "attention_head_dim": shape.attention_head_dim,
            "num_attention_heads": shape.num_attention_heads,
            "joint_attention_dim": context,
            "caption_projection_dim": shape.width,
            "pooled_projection_dim": pooled,
            "pos_embed_max_size": shape.pos_embed_max_size,
            "dual_attention_layers": shape.dual_attention_layers,
            "qk_norm": shape.qk_norm,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        return network(
            hidden_states=asked.noisy_bchw,
            timestep=asked.timestep_b.float(),
            encoder_hidden_states=asked.tokens_bsc,
            pooled_projections=asked.pooled_bp,
            return_dict=False,
            **self.attention(asked),
        )[0]

    def text_channels(self, config: Any) -> int:
        return int(config["joint_attention_dim"])

    def pooled_channels(self, config: Any) -> int | None:
        return int(config["pooled_projection_dim"])

    def largest_size(self, config: Any) -> int | None:
        return int(config["pos_embed_max_size"]) * int(config["patch_size"])
