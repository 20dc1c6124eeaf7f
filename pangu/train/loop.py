"""The training loop of one generator on one data-parallel worker. Knows torch.distributed, but no Ray and no MLflow."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pangu.config import Recipe, Role
from pangu.data.batches import EncodedRows
from pangu.diffusion.interval import interval_of
from pangu.diffusion.noise import alpha_bars
from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser
from pangu.train.checkpoint import CheckpointState, check_same_run, latest_checkpoint, restore, save_checkpoint
from pangu.train.draws import draw_batch
from pangu.train.ledger import Ledger
from pangu.train.step import learning_rate, train_step

OnMetrics = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class World:
    """This worker's place among the data-parallel workers of its job."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, indices: list[int]) -> tuple[list[int], int]:
        """This worker's slice of a global batch and the position where it starts."""
        per_worker = len(indices) // self.size
        start = self.rank * per_worker
        return indices[start : start + per_worker], start


@dataclass(frozen=True)
class Trained:
    """What the loop leaves behind on every worker."""

    denoiser: Any
    loss: float
    steps: int
    resumed_from: int


def train_loop(
    role: Role,
    recipe: Recipe,
    rows: EncodedRows,
    encode_id: str,
    checkpoints: Path,
    world: World | None = None,
    on_metrics: OnMetrics | None = None,
) -> Trained:
    """Train `role` on its own interval from the newest checkpoint, or from the seed; returns the EMA weights.

    Running it again after a kill continues; the result equals an uninterrupted run, to the bit on CPU.

    Raises:
        UserError: batch and workers do not fit, a checkpoint is of another run, or the loss is no longer finite.
    """
    world = world or World()
    training = recipe.training(role)
    if training.batch_size % world.size:
        raise UserError(f"batch_size {training.batch_size} of {role} cannot be shared by {world.size} workers equally.")
    interval = interval_of(role, recipe.boundary, recipe.schedule.num_train_timesteps)
    alpha_bars_t = alpha_bars(recipe.schedule).to(world.device)
    ledger = Ledger(tuple(rows.preset_n.tolist()), training.batch_size, recipe.seed)

    window = rows.latents_nchw.shape[-1] * training.resolution // training.encoded_side

    denoiser, ema, optimizer = start(recipe, rows, world.device)
    found = latest_checkpoint(checkpoints)
    first = 0
    if found is not None:
        check_same_run(found[1], role, encode_id, recipe)
        restore(*found, denoiser, ema, optimizer)
        first = found[1].step
    model = DistributedDataParallel(denoiser) if world.size > 1 else denoiser
    recent = Window(recipe.optimization.log_every)

    for step in range(first, training.steps):
        lr = learning_rate(step, training.steps, recipe.optimization)
        for group in optimizer.param_groups:
            group["lr"] = lr
        indices, position = world.share(ledger.rows_of(step).tolist())
        batch = draw_batch(rows, indices, position, step, recipe.seed, interval, recipe.optimization, window)
        batch = batch.to(world.device)
        losses, norm = train_step(model, optimizer, batch, alpha_bars_t, recipe.schedule, recipe.optimization)
        ema.step(denoiser.parameters())
        loss = _mean_over_workers(losses.mean(), world)
        if not math.isfinite(loss):
            names = ", ".join(rows.keys[i][:12] for i in indices[:4])
            raise UserError(
                f"The loss of {role} is {loss} at step {step} (rows {names} ...); "
                f"the last good checkpoint is kept, lower lr_peak."
            )
        done = step + 1
        recent.add(loss, float(norm), training.batch_size)
        if on_metrics is not None and (done % recipe.optimization.log_every == 0 or done == training.steps):
            on_metrics(done, recent.metrics() | {"lr": lr})
        if world.rank == 0 and (done % recipe.optimization.checkpoint_every == 0 or done == training.steps):
            state = CheckpointState(
                role=role, step=done, encode_id=encode_id, recipe=recipe, optimizer_groups=[], ema={}, files={}
            )
            save_checkpoint(checkpoints, state, denoiser, ema, optimizer)
    ema.copy_to(denoiser.parameters())
    return Trained(denoiser, recent.loss, training.steps, first)


def start(recipe: Recipe, rows: EncodedRows, device: torch.device) -> tuple[Any, EMAModel, torch.optim.Optimizer]:
    """Network, EMA and optimizer at step 0: a function of the recipe's seed, the same for both roles (common start)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        denoiser = build_denoiser(
            recipe.denoiser, rows.latents_nchw.shape[1], rows.tokens_lnsc.shape[-1], rows.pooled_lnp.shape[-1]
        )
    denoiser = denoiser.to(device).train()
    settings = recipe.optimization
    ema = EMAModel(denoiser.parameters(), decay=settings.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=settings.lr_peak, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    return denoiser, ema, optimizer


class Window:
    """Sums since the last log line, and a slowly forgetting loss for the outcome."""

    def __init__(self, smoothing_steps: int) -> None:
        self.loss = math.nan
        self._keep = 1 - 1 / max(1, smoothing_steps)
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._images = 0
        self._since = time.perf_counter()

    def add(self, loss: float, norm: float, images: int) -> None:
        self.loss = loss if math.isnan(self.loss) else self._keep * self.loss + (1 - self._keep) * loss
        self._losses.append(loss)
        self._norms.append(norm)
        self._images += images

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and the speed in images a second."""
        result = {
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": sum(self._norms) / len(self._norms),
            "images_per_s": self._images / (time.perf_counter() - self._since),
        }
        self._reset()
        return result


def _mean_over_workers(value: Tensor, world: World) -> float:
    if world.size > 1:
        torch.distributed.all_reduce(value)
        value = value / world.size
    return float(value)
