"""One training step."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pangu.config import Execution, NoiseSchedule, Optimization
from pangu.diffusion.noise import add_noise, training_target
from pangu.models.denoisers import denoise
from pangu.train.randomness import Batch
from pangu.train.step_timer import StepTimer
from pangu.train.world import World


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
    """(B,) weights in [0, 1]: min(SNR, gamma) of the clean-data loss, told in terms of the predicted quantity.

    min(SNR, gamma) / SNR for epsilon and / (SNR + 1) for v (arXiv 2303.09556, Section 3.4), with SNR = ab / (1 - ab), here
    without a quotient that is 0 / 0 at ab = 0 or inf / inf at ab = 1.
    """
    if prediction_type == "epsilon":
        return (gamma * (1 - alpha_bar_b) / alpha_bar_b).clamp(max=1)
    return torch.minimum(alpha_bar_b, gamma * (1 - alpha_bar_b))


@dataclass(frozen=True)
class StepResult:
    """What a step leaves, still on the device: nothing here has been waited for.

    losses_b: unweighted loss of each sample of this worker (B,); loss: their mean over the global batch, of all workers ();
    grad_norm: before clipping (); skipped: 1 if loss or norm was not finite, so that nothing was learnt, else 0 ().
    """

    losses_b: Tensor
    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor


def train_step(
    denoiser: Any,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Batch],
    global_batch: float,
    alpha_bars_t: Tensor,
    schedule: NoiseSchedule,
    optimization: Optimization,
    execution: Execution,
    timer: StepTimer,
    world: World | None = None,
) -> StepResult:
    """Forward and backward of each part, then one optimizer step, unless the loss or the gradient norm is not finite.

    Gradients are those of the mean over the global batch: each part adds its sum divided by `global_batch`, which is the
    number of samples per worker where workers average their gradients. All workers decide alike whether to skip: the norm is
    of averaged gradients, the loss of all samples. The optimizer skips on the device (`found_inf`), so that nothing waits.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts, start=1):
        waits = number < len(parts) and hasattr(denoiser, "no_sync")
        with denoiser.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(part.latents_bchw.device.type, torch.bfloat16, enabled=execution.precision == "bf16"):
                error_b = loss_per_sample(denoiser, part, alpha_bars_t, schedule.prediction_type)
            timer.lap("forward")
            losses.append(error_b.detach())
            if optimization.min_snr_gamma is not None:
                alpha_bar_b = alpha_bars_t[part.timestep_b]
                error_b = error_b * min_snr_weight(alpha_bar_b, optimization.min_snr_gamma, schedule.prediction_type)
            (error_b.sum() / global_batch).backward()
            timer.lap("backward")
    losses_b, world = torch.cat(losses), world or World()
    loss = world.total(losses_b.sum()) / (global_batch * world.size)
    timer.lap("communication")
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, optimization.grad_clip).detach()
    skipped = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
    step_unless(skipped, optimizer)
    timer.lap("optimizer")
    return StepResult(losses_b, loss, norm, skipped)


def step_unless(skipped: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A fused optimizer's step that changes neither weights nor moments where `skipped` () is 1, as GradScaler asks for it."""
    optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
