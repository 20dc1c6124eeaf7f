"""Counted operations: of a training step, of encoding an image with its captions, of drawing one. No weights are needed.

Counting is torch's (FlopCounterMode: two operations a multiply-add, matrix products and convolutions only) on the meta device.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pangu.config import AutoencoderSource, DenoiserShape, Recipe, Role, RoleTraining, TextEncoderSource
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import build_denoiser, denoise, sees_lower
from pangu.models.text import load_text_tower

KL_LEVELS = (128, 256, 512, 512)
"""SD's and SDXL's autoencoder (arXiv 2112.10752); its parameters need not be there to count it."""
KL_CHANNELS = 4
KNOWN_TEXT = {"text_encoder_2": (1280, 1280, 694_659_840), None: (768, 0, 102_000_000)}
"""Channels of tokens and pooled text, and parameters, of the published recipes' encoders: OpenCLIP bigG and Chinese CLIP."""


class Shapes:
    """Channels of latents, tokens and pooled text of a recipe, from its sources or from what is known of the published ones."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.latent_channels = _latent_channels(recipe.autoencoder)
        channels = [_text(source) for source in recipe.text_encoders]
        self.tokens = sum(context for context, _, _ in channels)
        self.pooled = sum(pooled for _, pooled, _ in channels)
        self.text_parameters = sum(parameters for _, _, parameters in channels)


def training_operations(shapes: Shapes, role: Role) -> float:
    """Operations of one image of a training step, at the resolution of the role: forward, and twice as much backward.

    Gradient checkpointing repeats the forward pass.
    """
    passes = 4 if shapes.recipe.execution_of(role).gradient_checkpointing else 3
    return passes * forward_operations(shapes, role, shapes.recipe.training(role).resolution)


def step_operations(shapes: Shapes, role: Role, side: int) -> float:
    """Operations of one image of a training step at `side` px, forward and backward, as the network really runs them.

    A little less than `training_operations`: inputs of the network need no gradient. Attention counts as its matrix products
    (torch's counter has no formula for the kernels of a CPU), and the gradient of a grouped convolution's weights as that of its
    groups (torch counts it as if there were one, which makes SANA's depthwise layers the greater part of a step).
    """
    recipe = shapes.recipe
    with torch.device("meta"):
        network = _built(shapes, role)
        latents = torch.empty(1, shapes.latent_channels, side // 8, side // 8)
        text = torch.empty(1, recipe.max_tokens, shapes.tokens), torch.empty(1, shapes.pooled)
        timestep = torch.zeros(1, dtype=torch.long)
    lower = latents if sees_lower(role) else None
    with sdpa_kernel(SDPBackend.MATH), counting() as counter:
        denoise(network, latents, timestep, *text, 0, lower_bchw=lower).sum().backward()
    return float(counter.get_total_flops())


def counting() -> FlopCounterMode:
    """Torch's counter, mended for the backward pass of grouped convolutions."""
    own = {torch.ops.aten.convolution_backward: _convolution_backward}
    return FlopCounterMode(display=False, custom_mapping=own)


def _convolution_backward(
    gradient: Sequence[int], seen: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None
) -> int:
    """Each of both gradients, of what is seen and of the weight, takes as many operations as the convolution itself.

    Shapes are those of aten.convolution_backward; rest: bias, stride, padding, dilation, transposed, output padding, groups, and
    which gradients are asked for. weight has the channels of one group.
    """
    transposed, asked_for = rest[4], rest[7]
    return sum(asked_for[:2]) * conv_flop_count(list(seen), list(weight), list(gradient), transposed=transposed)


def drawing_operations(shapes: Shapes) -> float:
    """Operations of the networks for one image: two predictions a step where there is guidance.

    Experts take steps as their intervals are long; of another strategy the first generator counts for all.
    """
    recipe = shapes.recipe
    steps = recipe.sampling.num_inference_steps * (2 if recipe.sampling.guidance_scale > 1 else 1)
    total = recipe.schedule.num_train_timesteps
    ends = (total, recipe.boundary, *recipe.further_boundaries, 0)
    shares: dict[Role, float] = {recipe.roles[0]: 1.0}
    if recipe.strategy == "time_decoupling":
        shares = {role: (high - low) / total for role, (high, low) in zip(recipe.roles, pairwise(ends), strict=True)}
    side = recipe.training(recipe.roles[0]).encoded_side
    return steps * sum(share * forward_operations(shapes, role, side) for role, share in shares.items())


def encoding_operations(shapes: Shapes, job: RoleTraining) -> float:
    """Operations of one image, at the size that the job is encoded at, and of its two captions."""
    captions = 2 * 2 * shapes.text_parameters * shapes.recipe.max_tokens
    return _autoencoder(shapes.recipe.autoencoder, job.encoded_side) + captions


def parameters(shapes: Shapes, role: Role) -> int:
    """Of one generator."""
    with torch.device("meta"):
        network = _built(shapes, role)
    return sum(parameter.numel() for parameter in network.parameters())


def forward_operations(shapes: Shapes, role: Role, side: int) -> float:
    """Operations of one prediction for one image of `side` px."""
    channels = shapes.latent_channels, shapes.tokens, shapes.pooled
    return _forward(shapes.recipe.denoiser_of(role), channels, shapes.recipe.max_tokens, side, sees_lower(role))


@lru_cache(maxsize=64)
def _forward(config: DenoiserShape, channels: tuple[int, int, int], max_tokens: int, side: int, lower: bool) -> float:
    latent, context, pooled = channels
    with torch.device("meta"), torch.no_grad():
        network = build_denoiser(config, *channels, lower=lower)
        latents = torch.empty(1, latent, side // 8, side // 8)
        text = torch.empty(1, max_tokens, context), torch.empty(1, pooled)
        with FlopCounterMode(display=False) as counter:
            denoise(network, latents, torch.zeros(1).long(), *text, 0, lower_bchw=latents if lower else None)
    return float(counter.get_total_flops())


def _built(shapes: Shapes, role: Role) -> torch.nn.Module:
    channels = shapes.latent_channels, shapes.tokens, shapes.pooled
    return build_denoiser(shapes.recipe.denoiser_of(role), *channels, lower=sees_lower(role))


def kl_autoencoder() -> AutoencoderKL:
    """Random weights in the shape that Stable Diffusion and SDXL share."""
    return AutoencoderKL(
        block_out_channels=KL_LEVELS,
        down_block_types=("DownEncoderBlock2D",) * len(KL_LEVELS),
        up_block_types=("UpDecoderBlock2D",) * len(KL_LEVELS),
        layers_per_block=2,
        latent_channels=KL_CHANNELS,
    )


@lru_cache(maxsize=64)
def _autoencoder(source: AutoencoderSource, side: int) -> float:
    if source.source == "embedded":
        vae = load_autoencoder(source).to("meta")
    else:
        with torch.device("meta"):
            vae = kl_autoencoder()
    with FlopCounterMode(display=False) as counter:
        vae.encode(torch.empty(1, 3, side, side, device="meta"))
    return float(counter.get_total_flops())


@lru_cache(maxsize=64)
def _latent_channels(source: AutoencoderSource) -> int:
    return int(load_autoencoder(source).config.latent_channels) if source.source == "embedded" else KL_CHANNELS


@lru_cache(maxsize=64)
def _text(source: TextEncoderSource) -> tuple[int, int, int]:
    """(channels of the tokens, channels of the pooled text, parameters)."""
    if source.source == "embedded":
        tower = load_text_tower(source)
        return tower.channels, tower.channels, sum(one.numel() for one in tower.encoder.parameters())
    return KNOWN_TEXT.get(source.subfolder, KNOWN_TEXT[None])
