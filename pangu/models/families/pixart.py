"""PixArt-alpha and -Sigma (arXiv 2310.00426, 2403.04692)."""

from typing import Any

import torch
from torch import Tensor

from pangu.config.denoiser_shapes import PixArtShape
from pangu.models.families.family import PIXELS_PER_LATENT, DenoiserFamily, DenoiserInput


class PixArtFamily(DenoiserFamily):
    """`PixArtTransformer2DModel`: cross-attention on the text tokens, one set of modulations for all blocks.

    Positions are stretched over the picture: a window of 8 x 8 latents spans as much as the whole. Published weights predict a
    variance in as many channels again, which is left aside.
    """

    name = "pixart"
    shape = PixArtShape
    network_class = "PixArtTransformer2DModel"
    blocks = ("BasicTransformerBlock",)
    lora_targets = ()
    attention_argument = "cross_attention_kwargs"
    size_told = (
        "height, width and their ratio, if `use_additional_conditions`; otherwise none: positions are stretched over it"
    )

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "num_attention_heads": shape.num_attention_heads,
            "attention_head_dim": shape.attention_head_dim,
            "num_layers": shape.num_layers,
            "cross_attention_dim": shape.width,
            "sample_size": shape.sample_size,
            "patch_size": shape.patch_size,
            "use_additional_conditions": shape.use_additional_conditions,
            "caption_channels": context,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        noisy = asked.noisy_bchw
        found = network(
            noisy,
            encoder_hidden_states=asked.tokens_bsc,
            timestep=asked.timestep_b.float(),
            added_cond_kwargs=self._sizes(config, asked),
            encoder_attention_mask=self.mask_of(config, asked),
            return_dict=False,
            **self.attention(asked),
        )[0]
        return found[:, : noisy.shape[1]]

    def _sizes(self, config: Any, asked: DenoiserInput) -> dict[str, Tensor | None]:
        """What networks with additional conditions are told, each (B, n) float32, px."""
        told = config.get("use_additional_conditions")
        if not (config["sample_size"] == 128 if told is None else told):
            return {"resolution": None, "aspect_ratio": None}
        height, width = (float(side * PIXELS_PER_LATENT) for side in asked.told_size)
        batch = len(asked.noisy_bchw)
        like: dict[str, Any] = {"device": asked.noisy_bchw.device, "dtype": torch.float32}
        sides = [torch.full((batch, 1), side, **like) for side in (height, width)]
        return {"resolution": torch.cat(sides, dim=1), "aspect_ratio": torch.full((batch, 1), height / width, **like)}

    def text_channels(self, config: Any) -> int:
        return int(config["caption_channels"])
