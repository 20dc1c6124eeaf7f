"""Qwen-Image (arXiv 2508.02324)."""

from typing import Any

from torch import Tensor, nn

from pangu.config.denoiser_shapes import QwenImageShape
from pangu.models.families.family import DenoiserFamily, DenoiserInput, exact_timestep
from pangu.models.families.packing import pack, unpack

SCALE = 1000
"""Its timesteps are shares of noise, which the embedder multiplies by this."""


class QwenImageFamily(DenoiserFamily):
    """`QwenImageTransformer2DModel`: FLUX's packed latents in double blocks alone; no pooled text.

    Positions turn queries and keys, so that only distances count. What the last block makes of the text goes nowhere: that part
    is not trained.
    """

    name = "qwen_image"
    shape = QwenImageShape
    network_class = "QwenImageTransformer2DModel"
    blocks = ("QwenImageTransformerBlock",)
    lora_targets = (*DenoiserFamily.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    size_told = "none: it reads the size from distances between tokens"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        return self.latent_arguments(latent_channels) | {
            "num_layers": shape.num_layers,
            "attention_head_dim": shape.attention_head_dim,
            "num_attention_heads": shape.num_attention_heads,
            "joint_attention_dim": context,
            "axes_dims_rope": shape.axes_dims_rope,
        }

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        noisy, share_b = asked.noisy_bchw, asked.timestep_b.float() / SCALE
        height, width = noisy.shape[2:]
        inner = getattr(network, "module", network)
        with exact_timestep(inner.time_text_embed, share_b):
            found = network(
                hidden_states=pack(noisy),
                timestep=share_b,
                encoder_hidden_states=asked.tokens_bsc,
                encoder_hidden_states_mask=self.mask_of(config, asked),
                img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
                return_dict=False,
                **self.attention(asked),
            )[0]
        return unpack(found, height, width)

    def unused_modules(self, network: Any) -> list[nn.Module]:
        last = network.transformer_blocks[-1]
        return [last.attn.to_add_out, last.txt_mlp]

    def latent_channels(self, config: Any) -> int:
        return int(config["in_channels"]) // 4

    def latent_arguments(self, latent_channels: int) -> dict[str, Any]:
        return {"in_channels": 4 * latent_channels, "out_channels": latent_channels}

    def text_channels(self, config: Any) -> int:
        return int(config["joint_attention_dim"])
