"""The denoiser of a generator: diffusers' conditional UNet, shaped by the recipe, or a pretrained one.

Those of the recipe are conditioned like PanGu-Draw's (Section 3.3): cross-attention on the text tokens; the pooled text embedding
and the sinusoidal embedding of the resolution preset's INDEX are added to the time embedding. Pretrained ones keep their own way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor

from pangu.config import DenoiserConfig, Role
from pangu.errors import UserError

SDXL_PIXELS_PER_LATENT = 8

Condition = Literal["none", "preset", "size"]
"""What a UNet is given beside the text tokens: nothing (Stable Diffusion), the pooled text and the index of the resolution preset
(PanGu-Draw), or the pooled text and six numbers about the size (SDXL, arXiv 2307.01952, Section 2.2)."""


def sees_lower(role: Role) -> bool:
    """Whether the generators of that role are conditioned on the image of an earlier stage, by channel concatenation."""
    return role in ("cascade_middle", "cascade_final")


def denoiser_config(
    config: DenoiserConfig, latent_channels: int, context: int, pooled: int, lower: bool = False
) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel for latents of `latent_channels` and text of (`context`, `pooled`) channels.

    With `lower`, the latents of an upsampled image come beside the noisy ones, in as many channels.
    """
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(config.attention)]
    return {
        "in_channels": latent_channels * (2 if lower else 1),
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


def build_denoiser(
    config: DenoiserConfig, latent_channels: int, context: int, pooled: int, lower: bool = False
) -> UNet2DConditionModel:
    """A freshly initialised denoiser; wrap in `torch.device('meta')` to count a large one without memory."""
    return UNet2DConditionModel(**denoiser_config(config, latent_channels, context, pooled, lower))


def load_unet(place: str | Path, subfolder: str | None = None) -> UNet2DConditionModel:
    """A UNet of diffusers from a folder or hub id, in float32.

    Raises:
        UserError: there is none, or its file lacks weights, which diffusers would draw at random.
    """
    name = f"{place}/{subfolder}" if subfolder else str(place)
    folder = {"subfolder": subfolder} if subfolder else {}
    try:
        unet, info = UNet2DConditionModel.from_pretrained(
            place, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True, **folder
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name} can not be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{name} lacks {len(info['missing_keys'])} weights of its UNet, such as {info['missing_keys'][0]}."
        )
    return unet


def condition_of(config: Any, pooled: int) -> Condition:
    """What a UNet of that configuration is conditioned on beside the text tokens, for pooled text of `pooled` channels.

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
        known: dict[int, Condition] = {1: "preset", 6: "size"}
        if rest == 0 and numbers in known:
            return known[numbers]
        raise UserError(
            f"The UNet adds {config['projection_class_embeddings_input_dim']} channels of pooled text and numbers to the time "
            f"embedding, which does not fit pooled text of {pooled} channels; use the text encoders that it was trained with."
        )
    raise UserError(
        f"The UNet is conditioned on addition_embed_type = {kind}, class_embed_type = {config.get('class_embed_type')}, "
        f"num_class_embeds = {config.get('num_class_embeds')}; a text-to-image UNet like Stable Diffusion's or SDXL's is needed."
    )


def denoise(
    unet: Any,
    noisy_bchw: Tensor,
    timestep_b: Tensor,
    tokens_bnc: Tensor,
    pooled_bp: Tensor,
    preset: int,
    *,
    lower_bchw: Tensor | None = None,
    native_size: tuple[int, int] | None = None,
    control: Mapping[str, Any] | None = None,
    cross_attention_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """One prediction (B, C, H, W): `preset` is the index of the resolution preset of the whole batch.

    timestep_b:  (B,) whole, or floating point, which reaches the network's embedding as float32, whatever the weights are in:
                 bf16 holds no more than 8 bits of it.
    lower_bchw:  (B, C, H, W) latents of the upsampled image of an earlier stage, concatenated on the channels.
    native_size: (height, width) in latents that the generator was trained at, for UNets that are told a size (SDXL's);
                 None means that of `noisy_bchw`.
    control:     for a `ControlledUNet`: its `control_bchw` and, where it is not 1, `conditioning_scale`.
    cross_attention_kwargs: what diffusers' UNets pass on to their attention processors.
    """
    config = getattr(unet, "module", unet).config  # DistributedDataParallel hides its attributes
    timestep_b = timestep_b.float() if timestep_b.is_floating_point() else timestep_b
    numbers: list[float] | None = None
    match condition_of(config, pooled_bp.shape[-1]):
        case "preset":
            numbers = [float(preset)]
        case "size":
            height, width = native_size or (noisy_bchw.shape[2], noisy_bchw.shape[3])
            size = [float(height * SDXL_PIXELS_PER_LATENT), float(width * SDXL_PIXELS_PER_LATENT)]
            numbers = [*size, 0.0, 0.0, *size]  # original size, top left corner of the crop, target size
    added = None
    if numbers is not None:
        like: dict[str, Any] = {"device": noisy_bchw.device, "dtype": torch.float32}
        # Filled on the device: copying them from the host would make a GPU wait.
        ids = [torch.full((len(noisy_bchw), 1), number, **like) for number in numbers]
        added = {"text_embeds": pooled_bp, "time_ids": torch.cat(ids, dim=1)}
    return unet(
        noisy_bchw if lower_bchw is None else torch.cat([noisy_bchw, lower_bchw.to(noisy_bchw.dtype)], dim=1),
        timestep_b,
        encoder_hidden_states=tokens_bnc,
        added_cond_kwargs=added,
        return_dict=False,
        **(control or {}),
        **({"cross_attention_kwargs": dict(cross_attention_kwargs)} if cross_attention_kwargs else {}),
    )[0]
