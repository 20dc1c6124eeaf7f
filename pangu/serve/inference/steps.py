"""Step-level batching: every run of a pool takes its next step together with all that can share a call of the network.

A request joins at the next step, not at the next batch, and leaves when its last step is done.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.padding import padded

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.diffusion.trajectory import Denoiser, OnStep, Step, Trajectory
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

Watcher = Callable[["Step"], None]
LARGEST_CALL = 16
"""Rows that one run may put into a single call of the network: ten images with guidance and styles are a hundred."""


@dataclass(eq=False)
class SamplingRun:
    """One request between two steps. watch is called on the event loop after each of them, after in the drawing thread: it may
    change the state that the next step begins with."""

    pipeline: "PanGuDrawPipeline"
    role: Role
    trajectory: "Trajectory"
    most: int | None
    watch: Watcher | None
    done: "asyncio.Future[None]"
    after: "OnStep | None" = None
    last: "Step | None" = None
    taken: int = 0
    batch: int = 0
    alone: bool = False
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether the next step is somebody else's, or there is none."""
        trajectory = self.trajectory
        if trajectory.finished or (self.most is not None and self.taken >= self.most):
            return True
        return trajectory.timestep not in self.pipeline.contract(self.role).interval

    @property
    def mean_batch_size(self) -> float:
        """Requests that shared a call with this one, itself included, on average over its steps."""
        return self.batch / self.taken if self.taken else 0.0

    @property
    def rows(self) -> int:
        """Of the batch that one call gets: images times parts of the guidance."""
        parts = len(self.trajectory.conditioning.styles) + (2 if self.trajectory.do_classifier_free_guidance else 1)
        return len(self.trajectory.latents_bchw) * parts

    @property
    def lora_scale(self) -> float:
        return self.trajectory.lora_scales.get(self.role, 1.0)

    @property
    def kind(self) -> Hashable:
        """Runs of one kind can share a call: one network, one shape, one preset, one weight of the adapter."""
        trajectory = self.trajectory
        shapes = tuple(trajectory.latents_bchw.shape[1:]), tuple(trajectory.conditioning.tokens_bnc.shape[1:])
        return id(self.pipeline), self.role, shapes, trajectory.presets[self.role], self.lora_scale

    def take(self, noisy_bchw: "Tensor", prediction_bchw: "Tensor", batch: int) -> None:
        """A step by a prediction that was made for so many at once.

        A scheduler moves on in place, so what fails from here on is this request's alone and is not tried again.
        """
        from pangu.diffusion.trajectory import take_step

        try:
            step = take_step(self.trajectory, noisy_bchw, prediction_bchw)
            self.trajectory = step.trajectory if self.after is None else self.after(step.trajectory)
        except Exception as error:
            self.error = error
            return
        self.last = step
        self.taken, self.batch = self.taken + 1, self.batch + batch


class StepBatcher:
    """Takes steps for all runs of one pool, in turns. While nobody comes, leaves or waits, the drawing thread goes on by itself:
    a turn of the event loop for each step costs a hundredth of a small network's.

    most_rows: of one call; a single run that is larger goes alone, in several calls where it is larger than `LARGEST_CALL` too.
    1 gives every run calls of its own, and so the same bits whatever else is drawn.
    sizes: rows that a call may have, rising, of which it takes the least that is enough; None takes just what it needs.
    """

    def __init__(self, worker: Worker, most_rows: int = 16, sizes: Sequence[int] | None = None) -> None:
        self._worker, self._most_rows, self._sizes = worker, most_rows, sizes
        self._runs: list[SamplingRun] = []
        self._runner: asyncio.Task[None] | None = None
        self._set_up: Hashable = None
        self._networks: dict[int, Denoiser] = {}
        self._changed = False

    @property
    def waiting(self) -> int:
        """Runs that are on their way."""
        return len(self._runs)

    async def run(
        self,
        pipeline: "PanGuDrawPipeline",
        role: Role,
        trajectory: "Trajectory",
        watch: Watcher | None = None,
        most: int | None = None,
        after: "OnStep | None" = None,
    ) -> SamplingRun:
        """Every next step that belongs to `role`, or the first `most` of them; none after the caller is cancelled."""
        run = SamplingRun(pipeline, role, trajectory, most, watch, asyncio.get_running_loop().create_future(), after)
        if run.over:
            return run
        self._runs.append(run)
        self._changed = True
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            await run.done
        finally:
            if run in self._runs:
                self._runs.remove(run)
                self._changed = True
        return run

    async def _run(self) -> None:
        while self._runs:
            batch, self._changed = choose_batch(self._runs, self._most_rows), False
            try:
                await self._worker.run(lambda batch=batch: self._take_steps(batch))  # type: ignore[misc]
            except Exception as error:
                self._failed(batch, error)
                continue
            for run in batch:
                self._show(run)
        # An idle pool keeps no network alive that its cache lets go of.
        self._set_up, self._networks = None, {}

    def _take_steps(self, batch: list[SamplingRun]) -> None:
        """Steps of all of them, each with one call of the network, until the event loop has something to decide.

        The network is made ready only where it is another than before, or has another adapter's weight.
        """
        import torch

        from pangu.diffusion.trajectory import predict_together

        with torch.inference_mode():
            network = self._network_of(batch[0])
            while True:
                predicted = predict_together([run.trajectory for run in batch], network)
                for run, (noisy, prediction) in zip(batch, predicted, strict=True):
                    run.take(noisy, prediction, len(batch))
                if self._is_awaited(batch):
                    return

    def aside(self, call: Callable[[], object]) -> None:
        """In the drawing thread: call a network for no run; the runs set theirs up again."""
        self._set_up = None
        call()

    def _network_of(self, run: SamplingRun) -> "Denoiser":
        set_up, preset = (id(run.pipeline), run.role, run.lora_scale), run.trajectory.presets[run.role]
        if set_up != self._set_up:
            self._set_up, self._networks = set_up, {}
        if preset not in self._networks:
            network = run.pipeline.denoiser(run.role, preset, run.lora_scale)
            if self._sizes is not None:
                network = padded(network, self._sizes)
            self._networks[preset] = in_parts(network, most_at_once(self._most_rows))
        return self._networks[preset]

    def _is_awaited(self, batch: list[SamplingRun]) -> bool:
        """Whether anybody came or left, waits for a turn or the thread, has arrived, or looks on."""
        if self._changed or len(self._runs) > len(batch) or self._worker.is_awaited:
            return True
        return any(run.over or run.error or run.watch is not None for run in batch)

    def _show(self, run: SamplingRun) -> None:
        if run not in self._runs:
            return
        # To the end of the queue, so that kinds take turns.
        self._runs.remove(run)
        if run.watch is not None and run.last is not None and run.error is None:
            run.watch(run.last)
        if run.over or run.error is not None:
            _settle(run, run.error)
        else:
            self._runs.append(run)

    def _failed(self, batch: list[SamplingRun], error: Exception) -> None:
        """A call of the network that fails for several fails only those for which it fails alone."""
        for run in batch:
            if len(batch) > 1:
                run.alone = True
                continue
            if run in self._runs:
                self._runs.remove(run)
            _settle(run, error)


def most_at_once(most_rows: int) -> int:
    """Rows of the largest call, where runs share calls of at most `most_rows`."""
    return max(most_rows, LARGEST_CALL)


def in_parts(network: "Denoiser", most_rows: int) -> "Denoiser":
    """The same network, asked for at most so many rows at a time; the parts of a larger batch are as equal as can be."""
    import torch

    def predict(*batch: "Tensor") -> "Tensor":
        rows = len(batch[0])
        if rows <= most_rows:
            return network(*batch)
        size = math.ceil(rows / math.ceil(rows / most_rows))
        return torch.cat([network(*part) for part in zip(*(each.split(size) for each in batch), strict=True)])

    return predict


def choose_batch(runs: list[SamplingRun], most_rows: int) -> list[SamplingRun]:
    """Whoever waits longest, and all behind it that can share its call."""
    leader, rows = runs[0], runs[0].rows
    batch = [leader]
    if leader.alone:
        return batch
    for run in runs[1:]:
        if run.kind == leader.kind and not run.alone and rows + run.rows <= most_rows:
            batch.append(run)
            rows += run.rows
    return batch


def _settle(run: SamplingRun, error: Exception | None = None) -> None:
    if run.done.done():
        return
    if error is None:
        run.done.set_result(None)
    else:
        run.done.set_exception(error)
