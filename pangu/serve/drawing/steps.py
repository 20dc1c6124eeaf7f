"""Step-level batching: every walk of a pool takes its next step together with all that can share a call of the network.

A request joins at the next step, not at the next batch, and leaves when its last step is done.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.serve.drawing.padding import padded
from pangu.serve.drawing.worker import Worker

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.diffusion.trajectory import Denoiser, OnStep, Step, Trajectory
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

Watcher = Callable[["Step"], None]
LARGEST_CALL = 16
"""Rows that one walk may put into a single call of the network: ten images with guidance and styles are a hundred."""


@dataclass(eq=False)
class Walk:
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
    company: int = 0
    alone: bool = False

    @property
    def over(self) -> bool:
        """Whether the next step is somebody else's, or there is none."""
        trajectory = self.trajectory
        if trajectory.finished or (self.most is not None and self.taken >= self.most):
            return True
        return trajectory.timestep not in self.pipeline.contract(self.role).interval

    @property
    def mean_company(self) -> float:
        """Requests that shared a call with this one, itself included, on average over its steps."""
        return self.company / self.taken if self.taken else 0.0

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
        """Walks of one kind can share a call: one network, one shape, one preset, one weight of the adapter."""
        trajectory = self.trajectory
        shapes = tuple(trajectory.latents_bchw.shape[1:]), tuple(trajectory.conditioning.tokens_bnc.shape[1:])
        return id(self.pipeline), self.role, shapes, trajectory.presets[self.role], self.lora_scale

    def took(self, step: "Step", company: int) -> None:
        """Move on by a step that was shared by so many."""
        self.trajectory = step.trajectory if self.after is None else self.after(step.trajectory)
        self.last = step
        self.taken, self.company = self.taken + 1, self.company + company


class StepBatcher:
    """Takes steps for all walks of one pool, in turns. While nobody comes, leaves or waits, the drawing thread goes on by itself:
    a turn of the event loop for each step costs a hundredth of a small network's.

    most_rows: of one call; a single walk that is larger goes alone, in several calls where it is larger than `LARGEST_CALL` too.
    1 gives every walk calls of its own, and so the same bits whatever else is drawn.
    sizes: rows that a call may have, rising, of which it takes the least that is enough; None takes just what it needs.
    """

    def __init__(self, worker: Worker, most_rows: int = 16, sizes: Sequence[int] | None = None) -> None:
        self._worker, self._most_rows, self._sizes = worker, most_rows, sizes
        self._walks: list[Walk] = []
        self._runner: asyncio.Task[None] | None = None
        self._set_up: Hashable = None
        self._networks: dict[int, Denoiser] = {}
        self._changed = False

    @property
    def waiting(self) -> int:
        """Walks that are on their way."""
        return len(self._walks)

    async def walk(
        self,
        pipeline: "PanGuDrawPipeline",
        role: Role,
        trajectory: "Trajectory",
        watch: Watcher | None = None,
        most: int | None = None,
        after: "OnStep | None" = None,
    ) -> Walk:
        """Every next step that belongs to `role`, or the first `most` of them; none after the caller is cancelled."""
        walk = Walk(pipeline, role, trajectory, most, watch, asyncio.get_running_loop().create_future(), after)
        if walk.over:
            return walk
        self._walks.append(walk)
        self._changed = True
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            await walk.done
        finally:
            if walk in self._walks:
                self._walks.remove(walk)
                self._changed = True
        return walk

    async def _run(self) -> None:
        while self._walks:
            company, self._changed = choose_company(self._walks, self._most_rows), False
            try:
                await self._worker.run(lambda company=company: self._take_steps(company))  # type: ignore[misc]
            except Exception as error:
                self._failed(company, error)
                continue
            for walk in company:
                self._show(walk)
        # An idle pool keeps no network alive that its shelf lets go of.
        self._set_up, self._networks = None, {}

    def _take_steps(self, company: list[Walk]) -> None:
        """Steps of all of them, each with one call of the network, until the event loop has something to decide.

        The network is made ready only where it is another than before, or has another adapter's weight.
        """
        import torch

        from pangu.diffusion.trajectory import step_together

        with torch.inference_mode():
            network = self._network_of(company[0])
            while True:
                steps = step_together([walk.trajectory for walk in company], network)
                for walk, step in zip(company, steps, strict=True):
                    walk.took(step, len(company))
                if self._is_awaited(company):
                    return

    def aside(self, call: Callable[[], object]) -> None:
        """In the drawing thread: call a network for no walk; the walks set theirs up again."""
        self._set_up = None
        call()

    def _network_of(self, walk: Walk) -> "Denoiser":
        set_up, preset = (id(walk.pipeline), walk.role, walk.lora_scale), walk.trajectory.presets[walk.role]
        if set_up != self._set_up:
            self._set_up, self._networks = set_up, {}
        if preset not in self._networks:
            network = walk.pipeline.denoiser(walk.role, preset, walk.lora_scale)
            if self._sizes is not None:
                network = padded(network, self._sizes)
            self._networks[preset] = in_parts(network, most_at_once(self._most_rows))
        return self._networks[preset]

    def _is_awaited(self, company: list[Walk]) -> bool:
        """Whether anybody came or left, waits for a turn or the thread, has arrived, or looks on."""
        if self._changed or len(self._walks) > len(company) or self._worker.is_awaited:
            return True
        return any(walk.over or walk.watch is not None for walk in company)

    def _show(self, walk: Walk) -> None:
        if walk not in self._walks:
            return
        # To the end of the queue, so that kinds take turns.
        self._walks.remove(walk)
        if walk.watch is not None and walk.last is not None:
            walk.watch(walk.last)
        if walk.over:
            _settle(walk)
        else:
            self._walks.append(walk)

    def _failed(self, company: list[Walk], error: Exception) -> None:
        """A call that fails for several fails only those for which it fails alone."""
        for walk in company:
            if len(company) > 1:
                walk.alone = True
                continue
            if walk in self._walks:
                self._walks.remove(walk)
            _settle(walk, error)


def most_at_once(most_rows: int) -> int:
    """Rows of the largest call, where walks share calls of at most `most_rows`."""
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


def choose_company(walks: list[Walk], most_rows: int) -> list[Walk]:
    """Whoever waits longest, and all behind it that can share its call."""
    leader, rows = walks[0], walks[0].rows
    company = [leader]
    if leader.alone:
        return company
    for walk in walks[1:]:
        if walk.kind == leader.kind and not walk.alone and rows + walk.rows <= most_rows:
            company.append(walk)
            rows += walk.rows
    return company


def _settle(walk: Walk, error: Exception | None = None) -> None:
    if walk.done.done():
        return
    if error is None:
        walk.done.set_result(None)
    else:
        walk.done.set_exception(error)
