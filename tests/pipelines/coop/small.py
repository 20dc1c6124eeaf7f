"""Small random models of every adapter, built with diffusers' own classes; and autoencoders whose bridge is known exactly."""

from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
)

STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WIDTH = 16
TOKENIZER = "pangu/assets/text_encoder"


def seeded(seed: int, build: Any, **arguments: Any) -> Any:
    """A module with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(**arguments).eval().requires_grad_(False)


@cache
def tokenizer() -> Any:
    from pangu.config import TextEncoderSource
    from pangu.models.text import load_text_tower

    return load_text_tower(TextEncoderSource()).tokenizer


def text_config(**changes: Any) -> CLIPTextConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextConfig(
        **sizes,
        vocab_size=len(tokenizer()),
        max_position_embeddings=32,
        projection_dim=WIDTH,
        eos_token_id=1,
        **changes,
    )


def vae(seed: int = 0, channels: int = 4, levels: int = 2, **changes: Any) -> AutoencoderKL:
    """2 px per latent with two levels, 4 with three."""
    return seeded(
        seed,
        AutoencoderKL,
        block_out_channels=[8] * levels,
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=channels,
        sample_size=32,
        **changes,
    )


def unet(seed: int = 0, channels: int = 4, **changes: Any) -> UNet2DConditionModel:
    arguments: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return seeded(seed, UNet2DConditionModel, **(arguments | changes))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd_parts(seed: int = 0, prediction: str = "epsilon", **changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "unet": unet(seed),
        "vae": vae(seed),
        "scheduler": DDIMScheduler(**STABLE, prediction_type=prediction, clip_sample=False, steps_offset=1),
        "text_encoder": seeded(seed, CLIPTextModel, config=text_config()),
        "tokenizer": tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return parts | changes


def stable_diffusion(seed: int = 0, prediction: str = "epsilon", **changes: Any) -> StableDiffusionPipeline:
    return quiet(StableDiffusionPipeline(**sd_parts(seed, prediction, **changes)))


def controlnet(of: UNet2DConditionModel, seed: int = 5) -> ControlNetModel:
    """A ControlNet that matters: those of diffusers begin at zero."""
    net = seeded(seed, lambda: ControlNetModel.from_unet(of, conditioning_embedding_out_channels=(8, 8)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
            nn.init.normal_(block.weight, std=0.3)
    return net


def controlled(seed: int = 0, count: int = 1, **changes: Any) -> StableDiffusionControlNetPipeline:
    parts = sd_parts(seed, **changes)
    nets = [controlnet(parts["unet"], 5 + index) for index in range(count)]
    return quiet(StableDiffusionControlNetPipeline(**parts, controlnet=nets if count > 1 else nets[0]))


def image_variation(seed: int = 0) -> StableDiffusionImageVariationPipeline:
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    parts = sd_parts(seed)
    for name in ("text_encoder", "tokenizer", "feature_extractor"):
        parts.pop(name)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    encoder = seeded(seed, CLIPVisionModelWithProjection, config=vision)
    return quiet(StableDiffusionImageVariationPipeline(**parts, image_encoder=encoder, feature_extractor=processor))


def sdxl_parts(seed: int = 0) -> dict[str, Any]:
    return {
        "unet": unet(
            seed,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 48,
            cross_attention_dim=2 * WIDTH,
        ),
        "vae": vae(seed + 40, scaling_factor=0.13),
        "scheduler": DDIMScheduler(**STABLE, clip_sample=False, steps_offset=1),
        "text_encoder": seeded(seed, CLIPTextModel, config=text_config()),
        "text_encoder_2": seeded(seed + 1, CLIPTextModelWithProjection, config=text_config()),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
        "add_watermarker": False,
    }


def sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    return quiet(StableDiffusionXLPipeline(**sdxl_parts(seed)))


def controlled_sdxl(seed: int = 0, count: int = 1) -> StableDiffusionXLControlNetPipeline:
    parts = sdxl_parts(seed)
    nets = [controlnet(parts["unet"], 5 + index) for index in range(count)]
    return quiet(StableDiffusionXLControlNetPipeline(**parts, controlnet=nets if count > 1 else nets[0]))


def t5() -> T5EncoderModel:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer())}
    return seeded(3, T5EncoderModel, config=T5Config(**sizes))


def stable_diffusion_3(seed: int = 0, **scheduler: Any) -> StableDiffusion3Pipeline:
    transformer = seeded(
        seed, SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16,
    )  # fmt: skip
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
            vae=vae(seed + 20, scaling_factor=1.5, shift_factor=0.06),
            text_encoder=seeded(seed, CLIPTextModelWithProjection, config=text_config()),
            text_encoder_2=seeded(seed + 1, CLIPTextModelWithProjection, config=text_config()),
            text_encoder_3=None,
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            tokenizer_3=None,
        )
    )


def flux(seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    transformer = seeded(
        seed, FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8], guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return quiet(
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae=vae(seed + 30, scaling_factor=0.36, shift_factor=0.11),
            text_encoder=seeded(seed, CLIPTextModel, config=text_config()),
            text_encoder_2=t5(),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
        )
    )


def ddpm(seed: int = 0, channels: int = 3) -> DDPMPipeline:
    network = seeded(
        seed, UNet2DModel, sample_size=16, in_channels=channels, out_channels=channels, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return quiet(DDPMPipeline(network, DDPMScheduler(clip_sample=False)))


def deepfloyd(seed: int = 0) -> IFPipeline:
    return quiet(
        IFPipeline(
            tokenizer=tokenizer(),
            text_encoder=t5(),
            unet=unet(seed, channels=3, out_channels=6, sample_size=16),
            scheduler=DDPMScheduler(
                variance_type="learned_range", clip_sample=False, beta_schedule="squaredcos_cap_v2"
            ),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    )


class OrthonormalVAE(ModelMixin, ConfigMixin):
    """An autoencoder whose encoder is an orthonormal transform of 2 x 2 x 3 pixels, and whose decoder is its transpose."""

    @register_to_config
    def __init__(self, seed: int = 0, latent_channels: int = 12, scaling_factor: float = 1.0) -> None:
        super().__init__()
        self.register_to_config(block_out_channels=[1, 1], shift_factor=0.0)
        matrix = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)))[0]
        self.matrix = nn.Parameter(matrix, requires_grad=False)

    def encode(self, pixels_bchw: Tensor) -> Any:
        blocks = nn.functional.pixel_unshuffle(pixels_bchw, 2)
        return AutoencoderKLOutput(latent_dist=_Point(torch.einsum("ij,bjhw->bihw", self.matrix, blocks)))

    def decode(self, latents_bchw: Tensor, return_dict: bool = True) -> Any:
        pixels = nn.functional.pixel_shuffle(torch.einsum("ij,bihw->bjhw", self.matrix, latents_bchw), 2)
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)


class _Point:
    """A distribution without spread."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def mode(self) -> Tensor:
        return self.value


class SeenThrough(nn.Module):
    """The UNet of one orthonormal space, in the coordinates of another: turn in, ask, turn out."""

    def __init__(self, inner: UNet2DConditionModel, own: OrthonormalVAE, other: OrthonormalVAE) -> None:
        super().__init__()
        self.inner, self.turn = inner, nn.Parameter(own.matrix @ other.matrix.T, requires_grad=False)
        self.config, self.dtype, self.device = inner.config, inner.dtype, inner.device

    def forward(self, noisy: Tensor, timestep: Any, **arguments: Any) -> Any:
        turned = torch.einsum("ij,bjhw->bihw", self.turn, noisy)
        answer = self.inner(turned, timestep, **arguments)[0]
        return (torch.einsum("ij,bihw->bjhw", self.turn, answer),)


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]
