"""Z-Image."""

from typing import Any

import torch
from torch import Tensor

from pangu.config.denoiser_shapes import ZImageShape
from pangu.models.families.family import DenoiserFamily, DenoiserInput


class ZImageFamily(DenoiserFamily):
    """`ZImageTransformer2DModel`: one stream of text and image behind refiners of their own.

    It is told the share of the picture, 1 - t / 1000, and predicts the flow towards it, so that both are turned round here.
    """

    name = "z_image"
    shape = ZImageShape
    network_class = "ZImageTransformer2DModel"
    blocks = ("ZImageTransformerBlock",)
    attention_argument = "joint_attention_kwargs"
    size_told = "none: it reads the size from distances between tokens"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return {
            "in_channels": latent_channels,
            "dim": shape.width,
            "n_layers": shape.num_layers,
            "n_refiner_layers": shape.num_refiner_layers,
            "n_heads": shape.num_attention_heads,
            "n_kv_heads": shape.num_attention_heads,
            "cap_feat_dim": context,
            "axes_dims": list(shape.axes_dims_rope),
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        noisy, mask = asked.noisy_bchw, self.mask_of(config, asked)
        texts = list(asked.tokens_bsc) if mask is None else [
            tokens[read.bool()] for tokens, read in zip(asked.tokens_bsc, mask, strict=True)
        ]  # fmt: skip
        found = network(
            list(noisy[:, :, None]),
            (1000 - asked.timestep_b.float()) / 1000,
            texts,
            return_dict=False,
            **self.attention(asked),
        )[0]
        return -torch.stack([one[:, 0] for one in found])

    def latent_arguments(self, latent_channels: int) -> dict[str, Any]:
        return {"in_channels": latent_channels}

    def size_step(self, config: Any) -> int:
        return 2

    def largest_size(self, config: Any) -> int | None:
        return 2 * min(config["axes_lens"][1:])

    def text_channels(self, config: Any) -> int:
        return int(config["cap_feat_dim"])
