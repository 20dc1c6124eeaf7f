"""Wan 2.1 and 2.2 (arXiv 2503.20314), one frame of them."""

from typing import Any

from torch import Tensor

from pangu.config.denoiser_shapes import WanShape
from pangu.models.families.family import DenoiserFamily, DenoiserInput


class WanFamily(DenoiserFamily):
    """`WanTransformer3DModel`, whose latents are a video of a single frame; cross-attention on the text tokens, padding as zeros.

    Positions turn queries and keys, so that only distances count: those within a window are those within the whole picture.
    """

    name = "wan"
    shape = WanShape
    network_class = "WanTransformer3DModel"
    blocks = ("WanTransformerBlock",)
    size_told = "none: it reads the size from distances between tokens"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "num_layers": shape.num_layers,
            "num_attention_heads": shape.num_attention_heads,
            "attention_head_dim": shape.attention_head_dim,
            "text_dim": context,
            "ffn_dim": shape.ffn_dim,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        tokens, mask = asked.tokens_bsc, asked.mask_bs
        found = network(
            asked.noisy_bchw[:, :, None],
            asked.timestep_b.float(),
            tokens if mask is None else tokens * mask[:, :, None].to(tokens.dtype),
            return_dict=False,
            **self.attention(asked),
        )[0]
        return found[:, :, 0]

    def size_step(self, config: Any) -> int:
        return int(config["patch_size"][-1])

    def largest_size(self, config: Any) -> int | None:
        return int(config["rope_max_seq_len"]) * self.size_step(config)

    def text_channels(self, config: Any) -> int:
        return int(config["text_dim"])
