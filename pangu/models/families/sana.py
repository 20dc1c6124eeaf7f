"""SANA (arXiv 2410.10629)."""

from typing import Any

from torch import Tensor

from pangu.config.denoiser_shapes import SanaShape
from pangu.models.families.family import DenoiserFamily, DenoiserInput


class SanaFamily(DenoiserFamily):
    """`SanaTransformer2DModel`: linear attention, and convolutions in the feed-forward layers.

    Without positions: a window of latents looks to it as it does in the whole picture, but for the edges.
    """

    name = "sana"
    shape = SanaShape
    network_class = "SanaTransformer2DModel"
    blocks = ("SanaTransformerBlock",)
    size_told = "none: it has no positions, and convolutions see the edges"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "num_attention_heads": shape.num_attention_heads,
            "attention_head_dim": shape.attention_head_dim,
            "num_layers": shape.num_layers,
            "num_cross_attention_heads": shape.num_cross_attention_heads,
            "cross_attention_head_dim": shape.width // shape.num_cross_attention_heads,
            "cross_attention_dim": shape.width,
            "caption_channels": context,
            "mlp_ratio": shape.mlp_ratio,
            "patch_size": shape.patch_size,
            "qk_norm": shape.qk_norm,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        return network(
            asked.noisy_bchw,
            encoder_hidden_states=asked.tokens_bsc,
            timestep=asked.timestep_b.float() * config.get("timestep_scale", 1.0),
            guidance=self.guidance_of(config, asked),
            encoder_attention_mask=self.mask_of(config, asked),
            return_dict=False,
            **self.attention(asked),
        )[0]

    def text_channels(self, config: Any) -> int:
        return int(config["caption_channels"])
