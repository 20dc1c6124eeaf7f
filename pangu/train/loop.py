"""The training loop of one generator on one data-parallel worker. Knows torch.distributed, but no Ray and no MLflow."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pangu.config import Recipe, Role, RoleTraining
from pangu.contract import GeneratorContract
from pangu.data.rows.mixed_rows import shares_of
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.interval import TimeInterval, interval_of
from pangu.errors import UserError
from pangu.train.checkpoint import CheckpointState, Snapshot, check_same_run, resume, save_checkpoint, snapshot
from pangu.train.ema import Ema
from pangu.train.losses import objective_of
from pangu.train.lr_schedule import learning_rate
from pangu.train.moments import CompactAdamW
from pangu.train.prefetch import prefetched
from pangu.train.randomness import Batch, Windows, draw_batch, seed_of
from pangu.train.sampler import DeterministicSampler, RowOrder
from pangu.train.saver import Saver
from pangu.train.segment_target import segment_target
from pangu.train.setup import check_drawable, check_sizes, initial, prepared, start
from pangu.train.skipped import most_skipped, stop, suspects
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from pangu.train.timestep_sampler import timestep_sampler
from pangu.train.training_metrics import TrainingMetrics
from pangu.train.world import World

OnMetrics = Callable[[int, dict[str, float]], None]
OnCheckpoint = Callable[[Path], None]
OnSample = Callable[[int, Any], None]
OnHeldOut = Callable[[Any], dict[str, float]]
AHEAD = 4
"""So many steps before a step its rows are told to whatever fetches them."""
ROUNDING = -1
"""Where a step's random rounding takes its seed; samples have the positions from 0 on."""


@dataclass(frozen=True)
class Hooks:
    """What rank 0 is told while the loop runs.

    metrics(step, values) at every log line; checkpoint(folder) after each whole checkpoint; sample(step, denoiser) every
    `Watching.sample_every` steps, with the first running mean in the place of the weights; held_out(denoiser) likewise every
    `Watching.held_out_every`, and what it measures stands in the next log line.
    """

    metrics: OnMetrics | None = None
    checkpoint: OnCheckpoint | None = None
    sample: OnSample | None = None
    held_out: OnHeldOut | None = None


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
    teacher: Any = None,
) -> Trained:
    """Train `role` on its own interval from the newest checkpoint, or from `denoiser`, or from the seed.

    Running it again after a kill continues; the result equals an uninterrupted run, to the bit on CPU. The denoiser comes
    back with its trained weights, and the running means beside it. A step whose loss or gradient norm is not finite changes
    neither weights nor moments, and is counted; while such steps follow one another no checkpoint is written but the very last.
    The host waits for the device where a log line or a checkpoint is due, and nowhere else.

    continues: learning digests of other recipes whose checkpoints this run goes on from (`pangu.train.continuing`).
    teacher: whom a distilled job follows; its weights are left as they are.

    Raises:
        UserError: batch and workers do not fit, a checkpoint is of another run, or `max_skipped_steps` were skipped in a row.
    """
    recipe = recipe.model_copy(update={"execution": recipe.execution_of(role)})
    run = Run(role, recipe, encode_id, checkpoints, contract, world or World(), hooks or Hooks())
    denoiser = denoiser if denoiser is not None else initial(recipe, rows, role)
    return Trainer(run, rows, windows, denoiser, continues, teacher).train()


@dataclass(frozen=True)
class Run:
    """What a training is told: which job of which recipe, on which data, and who else works at it."""

    role: Role
    recipe: Recipe
    encode_id: str
    checkpoints: Path
    contract: GeneratorContract | None
    world: World
    hooks: Hooks

    @property
    def training(self) -> RoleTraining:
        return self.recipe.training(self.role)

    def interval(self) -> TimeInterval:
        """The timesteps that the role owns.

        Raises:
            UserError: the contract says others.
        """
        whole = self.recipe
        total, further = whole.schedule.num_train_timesteps, whole.further_boundaries
        interval = interval_of(self.role, whole.boundary, total, further)
        if self.contract is not None and self.contract.interval != interval:
            raise UserError(
                f"The {self.role} generator is to be trained on {interval}, but its contract says {self.contract.interval}."
            )
        return interval


class Trainer:
    """One worker's training between two steps: network, means, optimizer, and what has been counted.

    denoiser: on any device; it is moved, laid out and resumed here. continues: as `train_loop` has it.
    """

    def __init__(
        self,
        run: Run,
        rows: Rows,
        windows: Windows | None,
        denoiser: Any,
        continues: Collection[str],
        teacher: Any = None,
    ) -> None:
        recipe, world, settings = run.recipe, run.world, run.recipe.optimization
        check_sizes(run.role, recipe, world)
        check_drawable(denoiser, rows, windows)
        self.run, self.rows, self.windows, self.interval = run, rows, windows, run.interval()
        self.objective = objective_of(recipe.schedule, settings, world.device)
        if run.training.distillation is not None:
            target = segment_target(
                run.training.distillation, recipe.schedule, self.interval, rows, teacher, world.device
            )
            self.objective = replace(self.objective, target=target)
        self.timesteps = timestep_sampler(rows, self.interval, recipe.schedule, settings, windows)
        self.denoiser = denoiser.to(world.device).train()
        self.model = prepared(self.denoiser, recipe.execution, world)
        self.ema, self.optimizer = start(self.denoiser, recipe, world)
        same_run = partial(check_same_run, role=run.role, encode_id=run.encode_id, recipe=recipe, earlier=continues)
        resumed = resume(run.checkpoints, same_run, self.denoiser, self.ema, self.optimizer, world)
        self.first, skipped = (resumed.step, resumed.skipped_steps) if resumed else (0, 0)
        order: RowOrder = resumed.row_order if resumed else "keyed"
        presets, batch_size = rows.preset_n.numpy(), run.training.batch_size
        self.sampler = DeterministicSampler(presets, batch_size, recipe.seed, shares_of(rows), order)
        self.timer = StepTimer(world.device, settings.log_every)
        buckets = recipe.watching.timestep_buckets
        self.metrics = TrainingMetrics(self.interval, buckets, settings.log_every, world.device, skipped)
        self.saver = Saver(self._write, recipe.execution.background_checkpoints)
        self.skipped_in_a_row, self._save_is_due = 0, False
        self._held_out: dict[str, float] = {}

    def train(self) -> Trained:
        """All steps that are left."""
        steps, prefetch = self.run.training.steps, self.run.recipe.execution.prefetch
        self.timer.begin()
        with self.saver:
            for step, drawn in enumerate(prefetched(self._draw, range(self.first, steps), prefetch), start=self.first):
                batch = drawn.to(self.run.world.device)
                self.timer.lap("data")
                lr = self._step(step, batch)
                self._after(step + 1, lr)
                self.timer.begin()
        return Trained(self.denoiser, self.ema, self.metrics.loss, steps, self.first, self.metrics.skipped_steps)

    def _rows_of(self, step: int) -> tuple[list[int], int]:
        """This worker's rows of a step, and the position of the first of them in the batch."""
        return self.run.world.share(self.sampler.rows_of(step).tolist())

    def _draw(self, step: int) -> Batch:
        begun = step > self.first
        for later in range(step + AHEAD if begun else step, min(step + AHEAD + 1, self.run.training.steps)):
            self.rows.expect(self._rows_of(later)[0])
        indices, position = self._rows_of(step)
        recipe = self.run.recipe
        batch = draw_batch(
            self.rows, indices, position, step, recipe.seed, self.timesteps, recipe.optimization, self.windows
        )
        return batch.pin() if self.run.world.device.type == "cuda" else batch

    def _step(self, step: int, batch: Batch) -> float:
        """One optimizer step and its running means; returns the learning rate."""
        recipe, world, training = self.run.recipe, self.run.world, self.run.training
        lr = learning_rate(step, training.steps, recipe.optimization)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self.optimizer, CompactAdamW):
            self.optimizer.rounding_seed = seed_of(recipe.seed, step, ROUNDING)  # the same on every worker
        if recipe.lora is not None and recipe.lora.dropout:
            torch.manual_seed(seed_of(recipe.seed, step, world.rank))  # the adapter's dropout, the same when resumed
        parts, global_batch = batch.split(recipe.execution.accumulate), training.batch_size / world.size
        result = train_step(
            self.model, self.optimizer, parts, global_batch, self.objective, recipe.optimization, recipe.execution,
            self.timer, world,
        )  # fmt: skip
        self.ema.step()
        self.metrics.add(step, result, training.batch_size, batch.timestep_b)
        self.timer.lap("optimizer")
        return lr

    def _after(self, done: int, lr: float) -> None:
        """What is due after so many steps: a log line, a checkpoint, a sample grid."""
        run, hooks, settings, watching = (
            self.run,
            self.run.hooks,
            self.run.recipe.optimization,
            self.run.recipe.watching,
        )
        last = done == run.training.steps
        log_is_due = done % settings.log_every == 0 or last
        self._save_is_due |= done % settings.checkpoint_every == 0
        if log_is_due or self._save_is_due:
            self._settle()
        every = watching.held_out_every
        if hooks.held_out is not None and every and (done % every == 0 or last):
            with self.ema.applied():
                self._held_out = hooks.held_out(self.denoiser.eval())
            self.denoiser.train()
        if hooks.metrics is not None and log_is_due:
            hooks.metrics(done, self.metrics.metrics() | self._held_out | self.timer.shares() | {"lr": lr})
            self._held_out = {}
        if last or (self._save_is_due and not self.skipped_in_a_row):
            self._save_is_due = False
            if run.world.rank == 0:
                self._save(done)
        if hooks.sample is not None and watching.sample_every and done % watching.sample_every == 0:
            with self.ema.applied():
                hooks.sample(done, self.denoiser.eval())
            self.denoiser.train()

    def _settle(self) -> None:
        """Wait for the device, and count the skipped steps in a row.

        Raises:
            UserError: there were too many.
        """
        run = self.run
        for taken in self.metrics.settle():
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if taken.skipped else 0
            if self.skipped_in_a_row >= most_skipped(run.recipe.optimization, taken.step + 1 == run.training.steps):
                self.saver.settle()  # the sentence names the checkpoints that are there
                names = suspects(self.rows.keys, self._rows_of(taken.step)[0], taken.losses)
                sentence = stop(run.role, taken, self.skipped_in_a_row, names, run.checkpoints, run.world.rank == 0)
                raise UserError(sentence)

    def _save(self, step: int) -> None:
        state = CheckpointState(
            role=self.run.role,
            step=step,
            row_order=self.sampler.order,
            skipped_steps=self.metrics.skipped_steps,
            encode_id=self.run.encode_id,
            recipe=self.run.recipe,
            contract=self.run.contract,
        )
        self.saver(snapshot(state, self.denoiser, self.ema, self.optimizer))

    def _write(self, taken: Snapshot) -> None:
        path = save_checkpoint(self.run.checkpoints, taken)
        if self.run.hooks.checkpoint is not None:
            self.run.hooks.checkpoint(path)
