"""One training step. Knows no Ray, no MLflow and no files."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pangu.config import Execution, NoiseSchedule, Optimization
from pangu.diffusion.noise import add_noise, training_target
from pangu.models.denoisers import denoise
from pangu.train.draws import Batch
from pangu.train.meters import Laps


def loss_per_sample(denoiser: nn.Module, batch: Batch, alpha_bars_t: Tensor, prediction_type: str) -> Tensor:
    """Squared error of the prediction, (B,), averaged over channels and pixels (PanGu-Draw, Eq. 2)."""
    alpha_bar_b = alpha_bars_t[batch.timestep_b]
    noisy = add_noise(batch.latents_bchw, batch.noise_bchw, alpha_bar_b)
    target = training_target(batch.latents_bchw, batch.noise_bchw, alpha_bar_b, prediction_type)
    text = batch.tokens_bsc, batch.pooled_bp
    control = None if batch.control_bchw is None else {"control_bchw": batch.control_bchw}
    prediction = denoise(
        denoiser, noisy, batch.timestep_b, *text, batch.preset, lower_bchw=batch.lower_bchw, control=control
    )
    return (prediction.float() - target).square().flatten(1).mean(1)


def min_snr_weight(alpha_bar_b: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """(B,) weights in (0, 1]: min(SNR, gamma) of the clean-data loss, told in terms of the predicted quantity.

    min(SNR, gamma) / SNR for epsilon and / (SNR + 1) for v (arXiv 2303.09556, Section 3.4), with SNR = ab / (1 - ab).
    """
    snr = alpha_bar_b / (1 - alpha_bar_b)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def train_step(
    denoiser: Any,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Batch],
    global_batch: float,
    alpha_bars_t: Tensor,
    schedule: NoiseSchedule,
    optimization: Optimization,
    execution: Execution,
    laps: Laps,
) -> tuple[Tensor, Tensor]:
    """Forward and backward of each part, then one optimizer step; (unweighted loss of each sample (B,), gradient norm ()).

    Gradients are those of the mean over the global batch: each part adds its sum divided by `global_batch`, which is the
    number of samples per worker where workers average their gradients.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts, start=1):
        waits = number < len(parts) and hasattr(denoiser, "no_sync")
        with denoiser.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(part.latents_bchw.device.type, torch.bfloat16, enabled=execution.precision == "bf16"):
                loss = loss_per_sample(denoiser, part, alpha_bars_t, schedule.prediction_type)
            laps.lap("forward")
            losses.append(loss.detach())
            if optimization.min_snr_gamma is not None:
                alpha_bar_b = alpha_bars_t[part.timestep_b]
                loss = loss * min_snr_weight(alpha_bar_b, optimization.min_snr_gamma, schedule.prediction_type)
            (loss.sum() / global_batch).backward()
            laps.lap("backward")
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, optimization.grad_clip)
    optimizer.step()
    laps.lap("optimizer")
    return torch.cat(losses), norm.detach()
