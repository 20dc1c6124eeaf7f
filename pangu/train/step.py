"""One training step."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pangu.config import Execution, Optimization
from pangu.diffusion.noise import add_noise, training_target
from pangu.diffusion.training_levels import TrainingLevels
from pangu.errors import UserError
from pangu.models.denoisers import denoise
from pangu.train.losses import Objective, Predicted, Target, squared_error
from pangu.train.randomness import Batch
from pangu.train.step_timer import StepTimer
from pangu.train.world import World


def predict(denoiser: nn.Module, batch: Batch, levels: TrainingLevels, target_of: Target | None = None) -> Predicted:
    """The network's prediction for a batch at its noise levels, and what it should be: of the images, or by `target_of`."""
    level = levels.level(batch.timestep_b)
    noisy = add_noise(batch.latents_bchw, batch.noise_bchw, level)
    if target_of is None:
        target = training_target(batch.latents_bchw, batch.noise_bchw, level, levels.prediction)
    else:
        target = target_of(denoiser, batch, noisy, level)
    text = batch.tokens_bsc, batch.pooled_bp
    control = None if batch.control_bchw is None else {"control_bchw": batch.control_bchw}
    found = denoise(
        denoiser, noisy, batch.timestep_b, *text, batch.preset, lower_bchw=batch.lower_bchw, control=control
    )
    return Predicted(
        found.float(), target, batch.latents_bchw, batch.noise_bchw, noisy, level, batch.timestep_b, levels.prediction
    )


def loss_per_sample(denoiser: nn.Module, batch: Batch, levels: TrainingLevels) -> Tensor:
    """Squared error of the prediction, (B,), averaged over channels and pixels (PanGu-Draw, Eq. 2)."""
    return squared_error(predict(denoiser, batch, levels))


@dataclass(frozen=True)
class StepResult:
    """What a step leaves, still on the device: nothing here has been waited for.

    losses_b: squared error of each sample of this worker (B,), whatever is minimised; loss: its mean over the whole batch ();
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
    objective: Objective,
    optimization: Optimization,
    execution: Execution,
    timer: StepTimer,
    world: World | None = None,
) -> StepResult:
    """Forward and backward of each part, then one optimizer step, unless the loss or the gradient norm is not finite.

    Gradients are those of the mean over the global batch: each part adds its sum divided by `global_batch`, which is the
    number of samples per worker where workers average their gradients. All workers decide alike whether to skip: the norm is
    of averaged gradients, the loss of all samples. The optimizer skips on the device (`found_inf`), so that nothing waits.

    Raises:
        UserError: the loss gives other than one number for each sample.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts, start=1):
        waits = number < len(parts) and hasattr(denoiser, "no_sync")
        with denoiser.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(part.latents_bchw.device.type, torch.bfloat16, enabled=execution.precision == "bf16"):
                predicted = predict(denoiser, part, objective.levels, objective.target)
                loss_b = objective.loss(predicted)
                with torch.no_grad():
                    plain_b = loss_b if objective.loss is squared_error else squared_error(predicted)
            timer.lap("forward")
            losses.append(plain_b.detach())
            if loss_b.shape != plain_b.shape:
                raise UserError(
                    f"optimization.loss must give one number for each of {len(part)} samples, not shape {tuple(loss_b.shape)}."
                )
            if part.weight_b is not None:
                loss_b = loss_b * part.weight_b
            (loss_b.sum() / global_batch).backward()
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
