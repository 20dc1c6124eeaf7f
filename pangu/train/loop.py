"""The training loop of one generator on one data-parallel worker. Knows torch.distributed, but no Ray and no MLflow."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from pangu.config import Execution, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.captions import Caption
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.interval import interval_of
from pangu.diffusion.noise import alpha_bars
from pangu.errors import UserError
from pangu.models.compiled import compile_blocks
from pangu.models.denoisers import build_denoiser
from pangu.models.lora import trained_parameters
from pangu.train.checkpoint import CheckpointState, Snapshot, check_same_run, resume, save_checkpoint, snapshot
from pangu.train.ema import Ema
from pangu.train.lr_schedule import learning_rate
from pangu.train.moments import CompactAdamW
from pangu.train.prefetch import prefetched
from pangu.train.randomness import Batch, Windows, draw_batch, seed_of
from pangu.train.sampler import DeterministicSampler
from pangu.train.saver import Saver
from pangu.train.skipped import most_skipped, stop, suspects
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from pangu.train.training_metrics import TrainingMetrics
from pangu.train.world import World

OnMetrics = Callable[[int, dict[str, float]], None]
OnCheckpoint = Callable[[Path], None]
OnSample = Callable[[int, Any], None]
ROUNDING = -1
"""Where a step's random rounding takes its seed; samples have the positions from 0 on."""


@dataclass(frozen=True)
class Hooks:
    """What rank 0 is told while the loop runs.

    metrics(step, values) at every log line; checkpoint(folder) after each whole checkpoint; sample(step, denoiser) every
    `Watching.sample_every` steps, with the first running mean in the place of the weights.
    """

    metrics: OnMetrics | None = None
    checkpoint: OnCheckpoint | None = None
    sample: OnSample | None = None


@dataclass(frozen=True)
class Trained:
    """What the loop leaves behind on every worker."""

    denoiser: Any
    ema: Ema
    loss: float
    steps: int
    resumed_from: int
    skipped_steps: int = 0


def train_loop(
    role: Role,
    recipe: Recipe,
    rows: Rows,
    encode_id: str,
    checkpoints: Path,
    world: World | None = None,
    hooks: Hooks | None = None,
    *,
    windows: Windows | None = None,
    contract: GeneratorContract | None = None,
    denoiser: Any = None,
    continues: Collection[str] = (),
) -> Trained:
    """Train `role` on its own interval from the newest checkpoint, or from `denoiser`, or from the seed.

    Running it again after a kill continues; the result equals an uninterrupted run, to the bit on CPU. The denoiser comes
    back with its trained weights, and the running means beside it. A step whose loss or gradient norm is not finite changes
    neither weights nor moments, and is counted; while such steps follow one another no checkpoint is written but the very last.
    The host waits for the device where a log line or a checkpoint is due, and nowhere else.

    continues: learning digests of other recipes whose checkpoints this run goes on from (`pangu.train.continuing`).

    Raises:
        UserError: batch and workers do not fit, a checkpoint is of another run, or `max_skipped_steps` were skipped in a row.
    """
    world, hooks = world or World(), hooks or Hooks()
    training, settings, watching = recipe.training(role), recipe.optimization, recipe.watching
    recipe = recipe.model_copy(update={"execution": recipe.execution_of(role)})
    check_sizes(role, recipe, world)
    interval = interval_of(role, recipe.boundary, recipe.schedule.num_train_timesteps)
    if contract is not None and contract.interval != interval:
        raise UserError(
            f"The {role} generator is to be trained on {interval}, but its contract says {contract.interval}."
        )
    alpha_bars_t = alpha_bars(recipe.schedule).to(world.device)
    sampler = DeterministicSampler(tuple(rows.preset_n.tolist()), training.batch_size, recipe.seed)

    denoiser = (denoiser if denoiser is not None else initial(recipe, rows, role)).to(world.device).train()
    model = prepared(denoiser, recipe.execution, world)
    ema, optimizer = start(denoiser, recipe, world)
    same_run = partial(check_same_run, role=role, encode_id=encode_id, recipe=recipe, earlier=continues)
    resumed = resume(checkpoints, same_run, denoiser, ema, optimizer, world)
    first, skipped = (resumed.step, resumed.skipped_steps) if resumed else (0, 0)
    timer = StepTimer(world.device, settings.log_every)
    metrics = TrainingMetrics(interval, watching.timestep_buckets, settings.log_every, world.device, skipped)

    def draw(step: int) -> Batch:
        indices, position = world.share(sampler.rows_of(step).tolist())
        batch = draw_batch(rows, indices, position, step, recipe.seed, interval, settings, windows)
        return batch.pin() if world.device.type == "cuda" else batch

    def write(taken: Snapshot) -> None:
        path = save_checkpoint(checkpoints, taken)
        if hooks.checkpoint is not None:
            hooks.checkpoint(path)

    saver = Saver(write, recipe.execution.background_checkpoints)

    def save(step: int) -> None:
        state = CheckpointState(
            role=role,
            step=step,
            skipped_steps=metrics.skipped_steps,
            encode_id=encode_id,
            recipe=recipe,
            contract=contract,
        )
        saver(snapshot(state, denoiser, ema, optimizer))

    def settle(in_a_row: int) -> int:
        """The skipped steps in a row, when all steps so far are known, of which `in_a_row` were before the unknown ones."""
        for taken in metrics.settle():
            in_a_row = in_a_row + 1 if taken.skipped else 0
            if in_a_row >= most_skipped(settings, taken.step + 1 == training.steps):
                saver.settle()  # the sentence names the checkpoints that are there
                names = suspects(rows.keys, world.share(sampler.rows_of(taken.step).tolist())[0], taken.losses)
                raise UserError(stop(role, taken, in_a_row, names, checkpoints, world.rank == 0))
        return in_a_row

    batches = prefetched(draw, range(first, training.steps), recipe.execution.prefetch)
    in_a_row, save_is_due = 0, False
    timer.begin()
    with saver:
        for step, drawn in enumerate(batches, start=first):
            batch = drawn.to(world.device)
            timer.lap("data")
            lr = learning_rate(step, training.steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr
            if isinstance(optimizer, CompactAdamW):
                optimizer.rounding_seed = seed_of(recipe.seed, step, ROUNDING)  # the same on every worker
            parts = batch.split(recipe.execution.accumulate)
            if recipe.lora is not None and recipe.lora.dropout:
                torch.manual_seed(
                    seed_of(recipe.seed, step, world.rank)
                )  # the adapter's dropout, the same when resumed
            result = train_step(
                model, optimizer, parts, training.batch_size / world.size, alpha_bars_t, recipe.schedule, settings,
                recipe.execution, timer, world,
            )  # fmt: skip
            ema.step()
            metrics.add(step, result, training.batch_size, batch.timestep_b)
            timer.lap("optimizer")
            done = step + 1
            last = done == training.steps
            log_is_due = done % settings.log_every == 0 or last
            save_is_due |= done % settings.checkpoint_every == 0
            if log_is_due or save_is_due:
                in_a_row = settle(in_a_row)
            if hooks.metrics is not None and log_is_due:
                hooks.metrics(done, metrics.metrics() | timer.shares() | {"lr": lr})
            if last or (save_is_due and not in_a_row):
                save_is_due = False
                if world.rank == 0:
                    save(done)
            if hooks.sample is not None and watching.sample_every and done % watching.sample_every == 0:
                with ema.applied():
                    hooks.sample(done, denoiser.eval())
                denoiser.train()
            timer.begin()
    return Trained(denoiser, ema, metrics.loss, training.steps, first, metrics.skipped_steps)


def check_sizes(role: Role, recipe: Recipe, world: World) -> None:
    """Raises UserError if a batch cannot be shared by the workers, or their shares not be divided for accumulation."""
    batch_size, parts = recipe.training(role).batch_size, recipe.execution_of(role).accumulate
    if batch_size < world.size:
        raise UserError(f"batch_size {batch_size} of {role} cannot be shared by {world.size} workers; raise it.")
    if parts > 1 and batch_size % (world.size * parts):
        raise UserError(
            f"batch_size {batch_size} of {role} cannot be cut into {parts} equal parts on each of {world.size} workers; "
            f"make it a multiple of {world.size * parts}."
        )


def initial(recipe: Recipe, rows: Rows, role: Role) -> Any:
    """A network of random weights: a function of the recipe's seed, the same for roles of one shape (common start)."""
    tokens, pooled = rows.captions([0], [Caption()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_denoiser(recipe.denoiser_of(role), rows.latents([0]).shape[1], tokens.shape[-1], pooled.shape[-1])


def start(denoiser: Any, recipe: Recipe, world: World | None = None) -> tuple[Ema, torch.optim.Optimizer]:
    """Running means and optimizer of the trained weights at step 0."""
    settings, execution, parameters = recipe.optimization, recipe.execution, trained_parameters(denoiser)
    ema = Ema(parameters, settings.ema_decays, execution, (world or World()).rank)
    options: dict[str, Any] = {
        "lr": settings.lr_peak,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    optimizer = (
        torch.optim.AdamW(parameters, fused=True, **options)
        if execution.moments == "fp32"
        else CompactAdamW(parameters, execution.moments, **options)
    )
    optimizer.register_step_pre_hook(ema.before_change)
    return ema, optimizer


def prepared(denoiser: Any, execution: Execution, world: World) -> Any:
    """What the steps call: the denoiser, shared by the workers and compiled as asked.

    Lays out the weights in memory, so it comes before the optimizer and the running means, which take over their strides.
    """
    if execution.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if execution.channels_last:
        denoiser.to(memory_format=torch.channels_last)
    if execution.compile:
        compile_blocks(denoiser)
    return DistributedDataParallel(denoiser, gradient_as_bucket_view=True) if world.size > 1 else denoiser
