"""Cooperating requests go through the same door as pairs: their calls are shared, cancelled, shown and kept like any other's."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.coop import CoopPipeline, Partner
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Step
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import SamplingRun, StepBatcher
from pangu.serve.inference.structure_cache import StructureCache
from tests import subtests
from tests.pipelines.coop import small
from tests.tape import Tape

SIZE = {"height": 96, "width": 96}


@pytest.fixture(scope="module")
def pair() -> PanGuDrawPipeline:
    return untrained_pair(tiny())


@pytest.fixture(scope="module")
def partner() -> Any:
    return small.stable_diffusion()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(threads=1)
    yield worker
    worker.close()


def cooperating(pair: PanGuDrawPipeline, partner: Any, seed: int, steps: int = 4, **own: Any) -> SamplingState:
    coop = CoopPipeline(pair, Partner(partner, **({"strength": 0.5} | own)))
    coop.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        return coop.begin(
            f"fox number {seed}", num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), **SIZE
        )


def alone(pair: PanGuDrawPipeline, seed: int, steps: int = 4) -> SamplingState:
    with torch.inference_mode():
        start = pair.start(
            pair.encode_prompt([f"fox number {seed}"]),
            num_inference_steps=steps,
            guidance_scale=5.0,
            generators=[torch.Generator().manual_seed(seed)],
            **SIZE,
        )
    return half(pair, "structure", start)


def ran(batcher: StepBatcher, *states: SamplingState, **options: Any) -> list[SamplingRun]:
    async def together() -> list[SamplingRun]:
        return list(await asyncio.gather(*(batcher.run(state, **options) for state in states)))

    return asyncio.run(together())


def latents(state: SamplingState) -> torch.Tensor:
    return state.trajectory.latents_bchw


def test_cooperations_share_calls_of_both_networks_and_draw_what_they_draw_alone(pair, partner, worker) -> None:
    calls = {"main": [], "partner": []}
    hooks = [
        pair.structure.register_forward_pre_hook(lambda _, inputs: calls["main"].append(len(inputs[0]))),
        partner.unet.register_forward_pre_hook(lambda _, inputs: calls["partner"].append(len(inputs[0]))),
    ]
    runs = ran(StepBatcher(worker), cooperating(pair, partner, 1), cooperating(pair, partner, 2))
    for hook in hooks:
        hook.remove()
    assert calls == {"main": [4, 4], "partner": [4] * 4}, "two requests, each with its null prompt, in every call"
    assert [run.mean_batch_size for run in runs] == [2, 2]
    for seed, run in ((1, runs[0]), (2, runs[1])):
        with torch.inference_mode():
            expected = latents(walk(cooperating(pair, partner, seed)))
        torch.testing.assert_close(latents(run.state), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_a_pair_and_a_cooperation_share_the_calls_of_the_pair(pair, partner, worker) -> None:
    batcher = StepBatcher(worker)

    async def both() -> tuple[SamplingRun, SamplingRun]:
        plain = batcher.run(alone(pair, 1), owned_by(pair, "structure"))
        return await asyncio.gather(plain, batcher.run(cooperating(pair, partner, 2)))

    plain, coop = asyncio.run(both())
    assert plain.taken == 2 and coop.taken == 4
    assert plain.mean_batch_size > 1 and coop.mean_batch_size > 1


def test_one_row_a_call_gives_a_cooperation_the_bits_of_its_pipeline(pair, partner, worker) -> None:
    run = ran(StepBatcher(worker, 1), cooperating(pair, partner, 1), cooperating(pair, partner, 2))[0]
    with torch.inference_mode():
        assert torch.equal(latents(run.state), latents(walk(cooperating(pair, partner, 1))))


def test_a_cancelled_cooperation_takes_no_further_step(pair, partner, worker) -> None:
    batcher, seen = StepBatcher(worker), []

    async def scenario() -> None:
        task = asyncio.create_task(batcher.run(cooperating(pair, partner, 1, steps=200), watch=seen.append))
        while len(seen) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await batcher.run(cooperating(pair, partner, 2, steps=2))

    asyncio.run(scenario())
    assert len(seen) < 20 and batcher.waiting == 0


def test_every_step_is_shown_with_what_all_of_them_would_draw(pair, partner, worker) -> None:
    shown: list[Step] = []
    ran(StepBatcher(worker), cooperating(pair, partner, 1), watch=shown.append)
    assert [step.trajectory.step for step in shown] == [1, 2, 3, 4]
    torch.testing.assert_close(shown[-1].clean_bchw, shown[-1].trajectory.latents_bchw, rtol=1e-3, atol=1e-3)


@pytest.mark.long
@subtests.parametrize("own", [{}, {"every": 2}, {"strength": 1.0}, {"start": 0.5}, {"stop": 0.5}])
def test_what_was_drawn_to_the_boundary_is_not_drawn_again(pair, partner, worker, own: dict[str, Any]) -> None:
    """Latents of the partner's own, and estimates that stand in for it, are kept with the rest."""
    cache, batcher = StructureCache(10**7), StepBatcher(worker, 1)
    first = cooperating(pair, partner, 1, **own)
    ran(batcher, first, goes_on=owned_by(pair, "structure"))
    cache.keep("key", first)
    whole = latents(ran(batcher, first)[0].state)
    for _ in range(2):
        again = cooperating(pair, partner, 1, **own)
        assert cache.restore("key", again) and again.trajectory.step == 2
        assert torch.equal(latents(ran(batcher, again)[0].state), whole)


def test_the_pair_of_a_cooperation_is_replayed_like_a_pair_alone(pair, partner) -> None:
    with torch.inference_mode():
        expected = latents(walk(cooperating(pair, partner, 1)))
        tape = Tape()
        with pair.capture(tape):
            for _ in range(2):
                assert torch.equal(latents(walk(cooperating(pair, partner, 1))), expected)
    assert len(tape.recorded) == 2  # structure and texture
