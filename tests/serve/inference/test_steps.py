"""Requests that share calls of the network: who goes with whom, and that company changes nothing that can be seen."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.errors import UserError
from pangu.models.schedulers import named_sampler
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import SamplingRun, StepBatcher
from tests import subtests


@pytest.fixture(scope="module")
def pair() -> PanGuDrawPipeline:
    return untrained_pair(tiny())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(threads=1)
    yield worker
    worker.close()


def begun(pair: PanGuDrawPipeline, seed: int, steps: int = 4, **options: Any) -> Trajectory:
    name = options.pop("scheduler", None)
    arguments = {"height": 96, "width": 96, "num_inference_steps": steps, "guidance_scale": 3.0} | options
    with torch.inference_mode():
        said = pair.encode_prompt([f"fox number {seed}"])
    return pair.start(
        said,
        generators=[torch.Generator().manual_seed(seed)],
        scheduler=name and named_sampler(name, pair.scheduler),
        **arguments,
    )


async def walked(batcher: StepBatcher, pair: PanGuDrawPipeline, start: Trajectory, **options: Any) -> SamplingRun:
    """The structure half of a request."""
    return await batcher.run(half(pair, "structure", start), owned_by(pair, "structure"), **options)


def ran(batcher: StepBatcher, pair: PanGuDrawPipeline, *starts: Trajectory) -> list[SamplingRun]:
    async def together() -> list[SamplingRun]:
        return list(await asyncio.gather(*(walked(batcher, pair, start) for start in starts)))

    return asyncio.run(together())


requests = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "steps": st.integers(2, 6),
        "guidance_scale": st.sampled_from([1.0, 3.0, 7.5]),
        "scheduler": st.sampled_from([None, "euler", "euler_ancestral", "dpmpp_2m"]),
    }
)


@given(st.lists(requests, min_size=2, max_size=5), st.integers(2, 12))
@settings(max_examples=6)
def test_a_result_depends_on_its_company_by_less_than_a_thousandth(
    pair: PanGuDrawPipeline, worker: Worker, asked: list[dict[str, Any]], most_rows: int
) -> None:
    alone = [ran(StepBatcher(worker, 1), pair, begun(pair, **each))[0] for each in asked]
    together = ran(StepBatcher(worker, most_rows), pair, *(begun(pair, **each) for each in asked))
    for one, other in zip(alone, together, strict=True):
        assert one.state.trajectory.step == other.state.trajectory.step
        scale = max(1.0, float(one.state.trajectory.latents_bchw.abs().max()))
        torch.testing.assert_close(
            one.state.trajectory.latents_bchw, other.state.trajectory.latents_bchw, rtol=0, atol=1e-3 * scale
        )


def test_one_row_a_call_gives_the_same_bits_whoever_else_draws(pair: PanGuDrawPipeline, worker: Worker) -> None:
    alone = ran(StepBatcher(worker, 1), pair, begun(pair, 1))[0]
    crowd = ran(StepBatcher(worker, 1), pair, *(begun(pair, seed) for seed in (1, 2, 3)))[0]
    assert torch.equal(alone.state.trajectory.latents_bchw, crowd.state.trajectory.latents_bchw)
    assert crowd.mean_batch_size == 1


def test_the_walk_is_the_pipelines_own_and_stops_at_the_boundary(pair: PanGuDrawPipeline, worker: Worker) -> None:
    run = ran(StepBatcher(worker), pair, begun(pair, 1, steps=5))[0]
    expected = pair.advance(begun(pair, 1, steps=5), "structure")
    assert torch.equal(run.state.trajectory.latents_bchw, expected.latents_bchw)
    assert run.taken == expected.step > 0
    assert not run.state.trajectory.finished


def test_a_request_joins_at_the_next_step(pair: PanGuDrawPipeline, worker: Worker) -> None:
    batcher = StepBatcher(worker)

    async def scenario() -> tuple[SamplingRun, SamplingRun]:
        joined: list[asyncio.Task[SamplingRun]] = []

        def join(_: Any) -> None:
            if not joined:
                joined.append(asyncio.create_task(walked(batcher, pair, begun(pair, 2, steps=6))))

        first = await walked(batcher, pair, begun(pair, 1, steps=6), watch=join)
        return first, await joined[0]

    first, second = asyncio.run(scenario())
    assert first.taken == second.taken == 3
    # Its first step was alone; how soon the other one came is the loop's business, but it was not after the last.
    assert 1 < first.mean_batch_size < 2
    assert second.mean_batch_size > 1


def test_a_cancelled_request_takes_no_further_step_and_leaves_no_trace(pair: PanGuDrawPipeline, worker: Worker) -> None:
    batcher, steps = StepBatcher(worker), []

    async def scenario() -> None:
        task = asyncio.create_task(walked(batcher, pair, begun(pair, 1, steps=200), watch=steps.append))
        other = asyncio.create_task(walked(batcher, pair, begun(pair, 2, steps=8)))
        while len(steps) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await other

    asyncio.run(scenario())
    assert len(steps) < 20
    assert batcher.waiting == 0


class CountingWorker(Worker):
    """A worker that counts what it was given."""

    turns = 0

    async def run(self, work: Any) -> Any:
        self.turns += 1
        return await super().run(work)


@pytest.fixture
def counting() -> Iterator[CountingWorker]:
    worker = CountingWorker(threads=1)
    yield worker
    worker.close()


def test_a_walk_with_nobody_beside_it_needs_one_turn_of_the_thread(
    pair: PanGuDrawPipeline, counting: CountingWorker
) -> None:
    run = ran(StepBatcher(counting), pair, begun(pair, 1, steps=12))[0]
    assert run.taken == 6
    assert counting.turns == 1


def test_a_walk_that_goes_on_by_itself_lets_others_join_leave_and_work(
    pair: PanGuDrawPipeline, counting: CountingWorker
) -> None:
    batcher, order = StepBatcher(counting), []

    async def scenario() -> tuple[SamplingRun, SamplingRun]:
        long = asyncio.create_task(walked(batcher, pair, begun(pair, 1, steps=200)))
        while counting.turns == 0:
            await asyncio.sleep(0.001)
        # Each of these has to interrupt a run of hundreds of milliseconds.
        order.append(await counting.run(lambda: "work"))
        second = await walked(batcher, pair, begun(pair, 2, steps=4))
        order.append("joined")
        leaving = asyncio.create_task(walked(batcher, pair, begun(pair, 3, steps=200)))
        while batcher.waiting < 2:
            await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not long.done()
        return await long, second

    first, second = asyncio.run(scenario())
    assert order == ["work", "joined"]
    assert first.taken == 100
    assert second.mean_batch_size == 2
    assert first.mean_batch_size < 1.5
    assert batcher.waiting == 0


def test_who_fails_fails_alone(pair: PanGuDrawPipeline, worker: Worker) -> None:
    """A damaged trajectory of the same kind must not take its company down."""
    good, bad = begun(pair, 1), begun(pair, 2)
    broken = replace(bad, timesteps=bad.timesteps - 600)
    batcher = StepBatcher(worker)

    async def scenario() -> list[Any]:
        done = asyncio.get_running_loop().create_future()
        run = SamplingRun(half(pair, "structure", broken), lambda state: True, None, None, done)
        walks = walked(batcher, pair, good), batcher.walk(run)
        return await asyncio.gather(*walks, return_exceptions=True)

    result, error = asyncio.run(scenario())
    assert isinstance(error, UserError)
    assert torch.equal(result.state.trajectory.latents_bchw, pair.advance(begun(pair, 1), "structure").latents_bchw)


@subtests.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_scheduler_that_fails_in_its_step_costs_no_other_request_a_step(
    pair: PanGuDrawPipeline, worker: Worker, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedulers move on in place: whoever stepped before the failure must not be stepped from there again."""
    first, broken, last = (begun(pair, seed, scheduler=sampler) for seed in (1, 2, 3))

    def fail(*arguments: Any, **named: Any) -> None:
        raise UserError("this scheduler fails")

    monkeypatch.setattr(broken.scheduler, "step", fail)
    batcher = StepBatcher(worker)

    async def scenario() -> list[Any]:
        walks = (walked(batcher, pair, start) for start in (first, broken, last))
        return await asyncio.gather(*walks, return_exceptions=True)

    found, error, other = asyncio.run(scenario())
    assert isinstance(error, UserError)
    for seed, run in ((1, found), (3, other)):
        alone = pair.advance(begun(pair, seed, scheduler=sampler), "structure").latents_bchw
        assert run.state.trajectory.step == 2
        torch.testing.assert_close(run.state.trajectory.latents_bchw, alone, rtol=1e-3, atol=1e-4)
