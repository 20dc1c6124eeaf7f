"""Trains small autoencoders for flat drawings up to a few hundred pixels: the embedded one is 8x smaller with 16 channels.

diffusers' AutoencoderDC at a thousandth of its usual size: pixel shuffles keep the costly full resolution free of convolutions.
"""

import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderDC
from diffusers.training_utils import EMAModel
from torch import Tensor

from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent

WIDTHS = {4: (16, 32, 64), 8: (12, 24, 48, 96)}
"""Pixels per latent along one side -> channels of each level."""
LAYERS = (0, 1, 2, 2)
LATENT_CHANNELS = 16
LR_PEAK = 2e-3
LATENT_NOISE = 0.1
"""The decoder learns to bear what a sampler leaves: latents that are slightly off."""
SHUFFLED_COLOURS = 0.3
"""Share of batches with their colour channels permuted, so that no hue is too rare to be told from its neighbour."""
KEPT = 20.0
"""Weight of latents that stay."""
RECOLOURED = 0.25
"""Share of batches whose channels are stretched between two random values each: dark grounds, tints, little contrast."""


def build(spatial_factor: int = 8, latent_channels: int = LATENT_CHANNELS) -> AutoencoderDC:
    """An untrained autoencoder; 1.1 M parameters with the defaults.

    Raises:
        UserError: no shape is known for that many pixels per latent.
    """
    if spatial_factor not in WIDTHS:
        raise UserError(f"spatial_factor must be one of {', '.join(map(str, WIDTHS))}, not {spatial_factor}.")
    widths = WIDTHS[spatial_factor]
    layers = LAYERS[: len(widths)]
    return AutoencoderDC(
        in_channels=3,
        latent_channels=latent_channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * len(widths),
        decoder_qkv_multiscales=((),) * len(widths),
    )


def train_autoencoder(
    images_nhwc: Tensor, minutes: float, folder: Path, init_from: Path | None = None, seed: int = 0,
    batch_size: int = 16, report: Reporter = silent, spatial_factor: int = 8, latent_channels: int = LATENT_CHANNELS,
    kept_nhwc: Tensor | None = None,
) -> float:  # fmt: skip
    """Train on (N, H, W, 3) uint8 images for so many core-minutes, save half-precision weights, return PSNR in dB.

    Starts from the autoencoder in `init_from`, or from random weights. kept_nhwc: images whose latents stay what that
    autoencoder makes of them, so that denoisers which were trained on them can stay, too. The length is a time, so the result
    depends on the machine; the file in the repository is the reference.

    Raises:
        UserError: there are latents to keep, and no autoencoder that made them.
    """
    if kept_nhwc is not None and init_from is None:
        raise UserError("Latents can be kept of an autoencoder that training starts from: add --init-from.")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build(spatial_factor, latent_channels)
    if init_from is not None:
        before = AutoencoderDC.from_pretrained(init_from, torch_dtype=torch.float32).eval().requires_grad_(False)
        model.load_state_dict(before.state_dict())
    ema = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), LR_PEAK, betas=(0.9, 0.95), weight_decay=1e-4)
    began, step = time.thread_time(), 0
    while (part := (time.thread_time() - began) / (60 * minutes)) < 1:
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = LR_PEAK * min(1, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        loss = reconstruction_loss(model, draw_crops(images_nhwc, batch_size, generator), generator)
        if kept_nhwc is not None:
            loss = loss + kept_loss(model, before, draw_crops(kept_nhwc, batch_size // 2, generator, False), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        step += 1
        if step % 100 == 0:
            facts = {"steps": step, "loss": round(float(loss), 4)}
            report(Progress(stage="autoencoder", done=int(100 * part), total=100, unit="%", facts=facts))
    ema.copy_to(model.parameters())
    model.half().save_pretrained(folder, safe_serialization=True)
    return psnr(model.float(), images_nhwc[:: max(1, len(images_nhwc) // 160)])


def draw_crops(images_nhwc: Tensor, count: int, generator: torch.Generator, other_colours: bool = True) -> Tensor:
    """(count, 3, h, w) in [-1, 1]: flipped, mostly cropped to two thirds, some with their colours exchanged or others."""
    chosen = torch.randint(len(images_nhwc), (count,), generator=generator)
    pixels = images_nhwc[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1
    chances = torch.tensor([0.5, 0.85, SHUFFLED_COLOURS * other_colours, RECOLOURED * other_colours])
    flip, crop, shuffle, recolour = (torch.rand(4, generator=generator) < chances).tolist()
    if shuffle:
        pixels = pixels[:, torch.randperm(3, generator=generator)]
    if recolour:
        black, white = 2 * torch.rand(2, count, 3, 1, 1, generator=generator) - 1
        pixels = black + (white - black) * (pixels + 1) / 2
    if flip:
        pixels = pixels.flip(-1)
    if crop:
        side = pixels.shape[-1] * 2 // 3 // 8 * 8
        top, left = torch.randint(pixels.shape[-1] - side + 1, (2,), generator=generator).tolist()
        pixels = pixels[..., top : top + side, left : left + side]
    return pixels.contiguous()


def reconstruction_loss(model: AutoencoderDC, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """L1 + 2 MSE + L1 of the gradients, and a nudge of the latents towards zero mean and at most unit variance."""
    latents = model.encode(pixels).latent
    noise = torch.randn(latents.shape, generator=generator)
    restored = model.decode(latents + LATENT_NOISE * noise).sample
    spread = (latents.square().mean((0, 2, 3)) - 1).relu().mean() + latents.mean((0, 2, 3)).square().mean()
    return _pixel_error(restored - pixels) + 0.01 * spread


def kept_loss(model: AutoencoderDC, before: AutoencoderDC, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The latents are those of `before`, and what is decoded from those is the picture."""
    with torch.no_grad():
        latents = before.encode(pixels).latent
    restored = model.decode(latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)).sample
    return KEPT * (model.encode(pixels).latent - latents).square().mean() + _pixel_error(restored - pixels)


def _pixel_error(error: Tensor) -> Tensor:
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges


@torch.inference_mode()
def psnr(model: AutoencoderDC, images_nhwc: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of what comes back."""
    pixels = images_nhwc.permute(0, 3, 1, 2).float() / 127.5 - 1
    restored = model.decode(model.encode(pixels).latent).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (restored - pixels).square().mean((1, 2, 3)))).mean())
