"""One training step. Knows no Ray, no MLflow and no files."""

import math

import torch
from torch import Tensor, nn

from pangu.config import NoiseSchedule, Optimization
from pangu.diffusion.noise import add_noise, training_target
from pangu.models.denoisers import denoise
from pangu.train.draws import Batch


def loss_per_sample(denoiser: nn.Module, batch: Batch, alpha_bars_t: Tensor, prediction_type: str) -> Tensor:
    """Squared error of the prediction, (B,), averaged over channels and pixels (PanGu-Draw, Eq. 2)."""
    alpha_bar_b = alpha_bars_t[batch.timestep_b]
    noisy = add_noise(batch.latents_bchw, batch.noise_bchw, alpha_bar_b)
    target = training_target(batch.latents_bchw, batch.noise_bchw, alpha_bar_b, prediction_type)
    prediction = denoise(denoiser, noisy, batch.timestep_b, batch.tokens_bsc, batch.pooled_bp, batch.preset)
    return (prediction.float() - target).square().flatten(1).mean(1)


def train_step(
    denoiser: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, alpha_bars_t: Tensor, schedule: NoiseSchedule,
    optimization: Optimization,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forward, backward and one optimizer step; returns (loss of each sample (B,), gradient norm ()), both detached."""
    device = batch.latents_bchw.device.type
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=optimization.precision == "bf16"):
        losses = loss_per_sample(denoiser, batch, alpha_bars_t, schedule.prediction_type)
    losses.mean().backward()
    norm = nn.utils.clip_grad_norm_(denoiser.parameters(), optimization.grad_clip)
    optimizer.step()
    return losses.detach(), norm.detach()


def learning_rate(step: int, total_steps: int, optimization: Optimization) -> float:
    """Linear warm-up to lr_peak, then half a cosine down to lr_final at the last step."""
    if step < optimization.warmup_steps:
        return optimization.lr_peak * (step + 1) / optimization.warmup_steps
    part = (step - optimization.warmup_steps) / max(1, total_steps - 1 - optimization.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
    return optimization.lr_final + (optimization.lr_peak - optimization.lr_final) * cosine
