"""diffusers' conditional UNet: Stable Diffusion 1 and 2, SDXL, and PanGu-Draw's.

Those of the recipe are conditioned like PanGu-Draw's (Section 3.3): cross-attention on the text tokens; the pooled text embedding
and the sinusoidal embedding of the resolution preset's INDEX are added to the time embedding. Pretrained ones keep their own way.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from pangu.config import DenoiserConfig
from pangu.errors import UserError
from pangu.models.families.family import PIXELS_PER_LATENT, DenoiserFamily, DenoiserInput

UNetCondition = Literal["none", "preset", "size", "score"]
"""What a UNet is given beside the text tokens: nothing (Stable Diffusion), the pooled text and the index of the resolution preset
(PanGu-Draw), the pooled text and six numbers about the size (SDXL, arXiv 2307.01952, Section 2.2), or four of them and a score of
aesthetics (SDXL's refiner)."""
AESTHETIC_SCORES = 6.0, 2.5
"""Of prompts and of negative ones, as diffusers' refiner pipeline has them; the first one also where nobody says any."""


class UNetFamily(DenoiserFamily):
    """`UNet2DConditionModel`."""

    name = "unet"
    part = "unet"
    label = "UNet"
    shape = DenoiserConfig
    network_class = "UNet2DConditionModel"
    blocks = ("ResnetBlock2D", "BasicTransformerBlock")
    size_told = "index of the preset, or height, width and crop as SDXL's"
    attention_argument = "cross_attention_kwargs"

    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in shape.attention]
        up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(shape.attention)]
        return {
            "in_channels": latent_channels,
            "out_channels": latent_channels,
            "block_out_channels": shape.block_out_channels,
            "layers_per_block": shape.layers_per_block,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "transformer_layers_per_block": shape.transformer_layers_per_block,
            "mid_block_type": "UNetMidBlock2DCrossAttn" if shape.attention[-1] else "UNetMidBlock2D",
            # diffusers' `attention_head_dim` means the NUMBER of heads, one entry a level.
            "attention_head_dim": tuple(
                max(1, width // shape.attention_head_dim) for width in shape.block_out_channels
            ),
            "norm_num_groups": shape.norm_num_groups,
            "cross_attention_dim": context,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": shape.preset_embed_dim,
            "projection_class_embeddings_input_dim": pooled + shape.preset_embed_dim,
        }

    def build(self, shape: Any, latent_channels: int, context: int, pooled: int, lower: bool = False) -> Any:
        arguments = self.arguments(shape, latent_channels, context, pooled)
        return self.network_type(**arguments | {"in_channels": latent_channels * (2 if lower else 1)})

    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        noisy, lower, timestep = asked.noisy_bchw, asked.lower_bchw, asked.timestep_b
        size = [float(side * PIXELS_PER_LATENT) for side in asked.told_size]
        # For SDXL: original size, top left corner of the crop, target size.
        told = {
            "none": [], "preset": [float(asked.preset)], "size": [*size, 0.0, 0.0, *size], "score": [*size, 0.0, 0.0],
        }  # fmt: skip
        like: dict[str, Any] = {"device": noisy.device, "dtype": torch.float32}
        # Filled on the device: copying them from the host would make a GPU wait.
        kind, pooled = condition_of(config, asked.pooled_bp.shape[-1]), asked.pooled_bp
        ids = [torch.full((len(noisy), 1), number, **like) for number in told[kind]]
        if kind == "score":
            width = config["projection_class_embeddings_input_dim"] - 5 * config["addition_time_embed_dim"]
            default = torch.full((len(noisy), 1), AESTHETIC_SCORES[0], **like)
            ids.append(pooled[:, width:].float() if pooled.shape[-1] > width else default)
            pooled = pooled[:, :width]
        added = {"text_embeds": pooled, "time_ids": torch.cat(ids, dim=1)} if ids else None
        return network(
            noisy if lower is None else torch.cat([noisy, lower.to(noisy.dtype)], dim=1),
            timestep.float() if timestep.is_floating_point() else timestep,
            encoder_hidden_states=asked.tokens_bsc,
            added_cond_kwargs=added,
            return_dict=False,
            **({} if asked.mask_bs is None else {"encoder_attention_mask": asked.mask_bs}),
            **(asked.control or {}),
            **self.attention(asked),
        )[0]

    def latent_channels(self, config: Any) -> int:
        return int(config["out_channels"])

    def sees_pooled(self, config: Any) -> bool:
        return config.get("addition_embed_type") is not None

    def text_channels(self, config: Any) -> int:
        projected = config.get("encoder_hid_dim_type") == "text_proj"
        return int(config["encoder_hid_dim"] if projected else config["cross_attention_dim"])

    def check_text(self, config: Any, context: int, pooled: int, name: str) -> None:
        width = self.text_channels(config)
        if config.get("encoder_hid_dim_type") not in (None, "text_proj") or width != context:
            raise UserError(
                f"init_from: {name} attends to {width} channels of text, but the text encoders give {context}; use the "
                f"text encoders that it was trained with."
            )
        condition_of(config, pooled)

    def check_latents(self, config: Any, latent_channels: int, lower: bool, name: str) -> None:
        accepted = (latent_channels, 2 * latent_channels) if lower else (latent_channels,)
        if config["in_channels"] not in accepted or config["out_channels"] != latent_channels:
            raise UserError(
                f"init_from: {name} takes {config['in_channels']} and gives {config['out_channels']} channels, but the "
                f"autoencoder has {latent_channels}; use the autoencoder that it was trained with, or set new_latents."
            )

    def with_new_latents(self, network: Any, latent_channels: int, lower: bool, seed: int) -> Any:
        incoming = (2 if lower else 1) * latent_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, channels in (("conv_in", (incoming, None)), ("conv_out", (None, latent_channels))):
                old = getattr(network, name)
                into, out = (
                    new or kept for new, kept in zip(channels, (old.in_channels, old.out_channels), strict=True)
                )
                setattr(network, name, torch.nn.Conv2d(into, out, old.kernel_size, old.stride, old.padding))
        network.register_to_config(in_channels=incoming, out_channels=latent_channels)
        return network


def condition_of(config: Any, pooled: int) -> UNetCondition:
    """What a UNet of that configuration is conditioned on beside the text tokens, for pooled text of `pooled` channels.

    One channel more than a refiner's text holds the score of each row.

    Raises:
        UserError: something that text and size do not give.
    """
    kind = config.get("addition_embed_type")
    if kind is None and config.get("class_embed_type") is None and config.get("num_class_embeds") is None:
        return "none"
    if kind == "text_time":
        numbers, rest = divmod(
            config["projection_class_embeddings_input_dim"] - pooled, config["addition_time_embed_dim"]
        )
        known: dict[int, UNetCondition] = {1: "preset", 6: "size", 5: "score"}
        if rest == 0 and numbers in known:
            return known[numbers]
        if numbers == 4 and rest == config["addition_time_embed_dim"] - 1:
            return "score"
        raise UserError(
            f"The UNet adds {config['projection_class_embeddings_input_dim']} channels of pooled text and numbers to the time "
            f"embedding, which does not fit pooled text of {pooled} channels; use the text encoders that it was trained with."
        )
    raise UserError(
        f"The UNet is conditioned on addition_embed_type = {kind}, class_embed_type = {config.get('class_embed_type')}, "
        f"num_class_embeds = {config.get('num_class_embeds')}; a text-to-image UNet like Stable Diffusion's or SDXL's is needed."
    )
