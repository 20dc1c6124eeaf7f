"""Step-level batching: what a run of a pool asks of a network next is asked together with all that can share the call.

A request joins at the next call, not at the next batch, and leaves when its last step is done. Pairs, edits and cooperations are
all runs of one `SamplingState` each.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.padding import padded
from pangu.serve.inference.turns import Turns

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.sampling.question import Asking, Denoiser, Question
    from pangu.sampling.sampling_state import SamplingState
    from pangu.sampling.trajectory import Step

Watcher = Callable[["Step"], None]
LARGEST_CALL = 16
"""Rows that one run may put into a single call of the network: ten images with guidance and styles are a hundred."""


@dataclass(eq=False, repr=False)  # asyncio.run writes out what it returns, tensors and all
class SamplingRun:
    """One request between two calls of networks.

    goes_on: asked between two steps. watch is called on the event loop after each step, after in the drawing thread: it may
    change the state that the next step begins with.
    """

    state: "SamplingState"
    goes_on: Callable[["SamplingState"], bool]
    most: int | None
    watch: Watcher | None
    done: "asyncio.Future[None]"
    after: "Callable[[SamplingState], None] | None" = None
    asking: "Asking[Step] | None" = None
    question: "Question | None" = None
    taken: int = 0
    shown: int = 0
    asked: int = 0
    batch: int = 0
    alone: bool = False
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether the next step is somebody else's, or there is none."""
        if self.question is not None:
            return False
        if self.state.finished or (self.most is not None and self.taken >= self.most):
            return True
        return not self.goes_on(self.state)

    @property
    def mean_batch_size(self) -> float:
        """Requests that shared a call with this one, itself included, on average over its calls."""
        return self.batch / self.asked if self.asked else 0.0

    def begin(self) -> None:
        """Come to a question, unless the run is over."""
        from pangu.sampling.sampling_step import sampling_step

        if self.question is None and self.error is None and not self.over:
            self.asking = sampling_step(self.state)
            self._go_on(None)

    def take(self, answer: "Tensor", batch: int) -> None:
        """An answer that was given to so many at once.

        A scheduler moves on in place, so what fails from here on is this request's alone and is not tried again.
        """
        self.asked, self.batch, self.question = self.asked + 1, self.batch + batch, None
        self._go_on(answer)

    def _go_on(self, answer: "Tensor | None") -> None:
        assert self.asking is not None
        try:
            self.question = self.asking.send(answer)  # type: ignore[arg-type]
        except StopIteration:
            self.taken += 1
            self._end_step()
        except Exception as error:
            self.error = error

    def _end_step(self) -> None:
        try:
            if self.after is not None:
                self.after(self.state)
        except Exception as error:
            self.error = error


class StepBatcher:
    """Takes steps for all runs of one pool, in turns. While nobody comes, leaves or waits, the drawing thread goes on by itself:
    a turn of the event loop for each step costs a hundredth of a small network's.

    most_rows: of one call; a single run that is larger goes alone, in several calls where it is larger than `LARGEST_CALL` too.
    1 gives every run calls of its own, and so the same bits whatever else is drawn.
    sizes: rows that a call may have, rising, of which it takes the least that is enough; None takes just what it needs.
    turns: of pools whose generators share one place on a device; None: they are all there.
    """

    def __init__(
        self, worker: Worker, most_rows: int = 16, sizes: Sequence[int] | None = None, turns: Turns | None = None
    ) -> None:
        from pangu.sampling.question import Networks

        self._worker, self._most_rows, self._sizes, self._turns = worker, most_rows, sizes, turns
        self._runs: list[SamplingRun] = []
        self._runner: asyncio.Task[None] | None = None
        self._networks = Networks(self._bounded)
        self._changed = False

    @property
    def waiting(self) -> int:
        """Runs that are on their way."""
        return len(self._runs)

    async def run(
        self,
        state: "SamplingState",
        goes_on: Callable[["SamplingState"], bool] = lambda state: True,
        watch: Watcher | None = None,
        most: int | None = None,
        after: "Callable[[SamplingState], None] | None" = None,
    ) -> SamplingRun:
        """Every step that is left while it `goes_on`, or the first `most` of them; none after the caller is cancelled."""
        run = SamplingRun(state, goes_on, most, watch, asyncio.get_running_loop().create_future(), after)
        if not run.over:
            await self.walk(run)
        return run

    async def walk(self, run: SamplingRun) -> None:
        """The steps of a run that is not over."""
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

    async def _run(self) -> None:
        while self._runs:
            if self._turns is None:
                await self._round(list(self._runs))
                continue
            async with self._turns:
                mine = list(self._runs)
                while runs := [run for run in self._runs if run in mine or not self._turns.is_awaited]:
                    mine = runs
                    await self._round(runs)
        # An idle pool keeps no network alive that its cache lets go of.
        self._networks.clear()

    async def _round(self, runs: list[SamplingRun]) -> None:
        """Steps of these runs, until the event loop has something to decide."""
        self._changed = False
        try:
            batch, error = await self._worker.run(lambda: self._take_steps(runs))
        except Exception as stopped:
            batch, error = runs[:1], stopped
        if error is not None:
            self._failed(batch, error)
        for run in runs:
            self._show(run, run in batch and error is None)

    def _take_steps(self, runs: list[SamplingRun]) -> tuple[list[SamplingRun], Exception | None]:
        """Calls of one network for all that can share them, until the event loop has something to decide.

        Returns for whom, and the error of a call that failed.
        """
        import torch

        with torch.inference_mode():
            for run in runs:
                run.begin()
            ready = [run for run in runs if run.question is not None]
            batch = choose_batch(ready, self._most_rows)
            while batch:
                questions = [run.question for run in batch if run.question is not None]
                try:
                    answers = self._answers(questions)
                except Exception as error:
                    return batch, error
                for run, answer in zip(batch, answers, strict=True):
                    run.take(answer, len(batch))
                if self._is_awaited(batch):
                    break
                for run in batch:
                    run.begin()
                if len({run.question and run.question.kind for run in batch}) > 1 or batch[0].question is None:
                    break
            return batch, None

    def _answers(self, questions: "list[Question]") -> "Sequence[Tensor]":
        import torch

        network = self._networks.of(questions[0].network)
        inputs = [torch.cat(each) for each in zip(*(question.inputs for question in questions), strict=True)]
        return network(*inputs).split([question.rows for question in questions])

    def aside(self, call: Callable[[], object]) -> None:
        """In the drawing thread: call a network for no run; the runs set theirs up again."""
        self._networks.clear()
        call()

    def _bounded(self, network: "Denoiser") -> "Denoiser":
        if self._sizes is not None:
            network = padded(network, self._sizes)
        return in_parts(network, most_at_once(self._most_rows))

    def _is_awaited(self, batch: list[SamplingRun]) -> bool:
        """Whether anybody came or left, waits for a turn or the thread, has arrived, or looks on."""
        if self._changed or len(self._runs) > len(batch) or self._worker.is_awaited:
            return True
        return any(run.over or run.error or run.watch is not None for run in batch)

    def _show(self, run: SamplingRun, asked: bool) -> None:
        if run not in self._runs:
            return
        if asked:
            # To the end of the queue, so that kinds take turns.
            self._runs.remove(run)
            self._runs.append(run)
        if run.watch is not None and run.shown < run.taken and run.error is None and run.state.last is not None:
            run.watch(run.state.last)
        run.shown = run.taken
        if run.over or run.error is not None:
            self._runs.remove(run)
            _settle(run, run.error)

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


def choose_batch(ready: list[SamplingRun], most_rows: int) -> list[SamplingRun]:
    """Of runs with an open question: whoever waits longest, and all behind it that can share its call."""
    batch: list[SamplingRun] = []
    kind, rows = None, 0
    for run in ready:
        assert run.question is not None
        if not batch:
            batch, kind, rows = [run], run.question.kind, run.question.rows
            if run.alone:
                break
        elif not run.alone and run.question.kind == kind and rows + run.question.rows <= most_rows:
            batch.append(run)
            rows += run.question.rows
    return batch


def _settle(run: SamplingRun, error: Exception | None = None) -> None:
    if run.done.done():
        return
    if error is None:
        run.done.set_result(None)
    else:
        run.done.set_exception(error)
