"""The recipes: functions that return a complete configuration. Measured costs and results stand beside each."""

from collections.abc import Callable

from pangu.config import (
    AutoencoderSource,
    DenoiserConfig,
    Execution,
    NoiseSchedule,
    Optimization,
    Recipe,
    RoleTraining,
    Sampling,
    TextEncoderSource,
)
from pangu.errors import UserError


def tiny() -> Recipe:
    """For tests: seconds on one core, images of no use."""
    return Recipe(
        name="tiny",
        max_tokens=16,
        denoiser=DenoiserConfig(
            block_out_channels=(16, 32),
            attention=(False, True),
            transformer_layers_per_block=(1, 1),
            attention_head_dim=16,
            norm_num_groups=8,
            preset_embed_dim=8,
        ),
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        jobs={
            "structure": RoleTraining(resolution=96, steps=4, batch_size=4),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=4, batch_size=4),
        },
        optimization=Optimization(warmup_steps=1, checkpoint_every=2, log_every=1),
        sampling=Sampling(num_inference_steps=4),
    )


def demo() -> Recipe:
    """For `make demo`: a pair trained from random weights in eight minutes, one CPU core per generator.

    4.1 M parameters a generator; 90 images/s (structure, 12 x 12 latents) and 150 images/s (texture, 8 x 8) on one core.
    """
    return Recipe(
        name="demo",
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        denoiser=DenoiserConfig(block_out_channels=(48, 80, 112), norm_num_groups=16),
        jobs={
            "structure": RoleTraining(resolution=96, steps=1200, batch_size=32),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=1700, batch_size=32),
        },
        optimization=Optimization(lr_peak=2e-3),
        sampling=Sampling(num_inference_steps=20, guidance_scale=3.0),
    )


def sdxl_half() -> Recipe:
    """Two generators of half SDXL's UNet each (1.31 B parameters), for one device per replica."""
    return _published(
        "sdxl_half",
        DenoiserConfig(
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            attention=(False, True, True),
            transformer_layers_per_block=(1, 2, 4),
            attention_head_dim=64,
            preset_embed_dim=256,
        ),
    )


def pangu_draw_5b() -> Recipe:
    """The paper's scale: two SDXL-shaped generators, 5 B parameters in all (PanGu-Draw, Section 4)."""
    return _published(
        "pangu_draw_5b",
        DenoiserConfig(
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            attention=(False, True, True),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=64,
            preset_embed_dim=256,
        ),
    )


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
CHINESE_CLIP = TextEncoderSource(source="OFA-Sys/chinese-clip-vit-large-patch14", hidden_layer=-1)
OPENCLIP_BIGG = TextEncoderSource(
    source=SDXL, subfolder="text_encoder_2", tokenizer_subfolder="tokenizer_2", hidden_layer=-2
)


def _published(name: str, denoiser: DenoiserConfig) -> Recipe:
    """What the paper's models share: SDXL's autoencoder, 768 Chinese + 1280 English channels, 1024 px over 512 px."""
    return Recipe(
        name=name,
        schedule=NoiseSchedule(prediction_type="epsilon"),
        boundary=500,
        autoencoder=AutoencoderSource(source=SDXL, subfolder="vae"),
        text_encoders=(CHINESE_CLIP, OPENCLIP_BIGG),
        max_tokens=77,
        denoiser=denoiser,
        jobs={
            "structure": RoleTraining(resolution=1024, presets="published", steps=200_000, batch_size=1024),
            "texture": RoleTraining(
                resolution=512, presets="published", crop_from=1024, rows="originals", steps=200_000, batch_size=2048
            ),
        },
        optimization=Optimization(
            lr_peak=1e-4, warmup_steps=1000, ema_decays=(0.9999, 0.999), checkpoint_every=1000, log_every=50
        ),
        execution=Execution(precision="bf16", gradient_checkpointing=True, channels_last=True, compile=True),
        sampling=Sampling(num_inference_steps=40, guidance_scale=7.5),
        workers=64,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "demo": demo,
    "sdxl_half": sdxl_half,
    "pangu_draw_5b": pangu_draw_5b,
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UserError: no recipe has that name.
    """
    if name not in RECIPES:
        raise UserError(f"Unknown recipe '{name}'; known recipes are {', '.join(sorted(RECIPES))}.")
    return RECIPES[name]()
