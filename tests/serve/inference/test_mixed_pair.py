"""A pair whose halves predict different things shares calls as any other: rows go by network, each with its own timestep."""

import asyncio

import torch
from torch import Tensor

from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import StepBatcher
from tests.pipelines.exact import EPSILON, FLOW, contracts_of, gaussian, joined
from tests.serve.inference.test_steps import begun


async def drawn(batcher: StepBatcher, pair: PanGuDrawPipeline, start: Trajectory) -> Tensor:
    for role in ("structure", "texture"):
        run = await batcher.run(half(pair, role, start), owned_by(pair, role))
        start = run.state.trajectory
    assert start.finished
    return start.latents_bchw


def test_a_mixed_pair_is_batched_by_network_and_draws_what_its_pipeline_draws() -> None:
    usual = untrained_pair(tiny())
    nets = gaussian(FLOW, usual.structure), gaussian(EPSILON, usual.structure)
    pair = joined(usual, list(nets), contracts_of(usual, (FLOW, 500, 1000), (EPSILON, 0, 354)))
    steps = {1: 6, 2: 9, 3: 6}
    alone = [pair.finish(begun(pair, seed, count)).latents_bchw for seed, count in steps.items()]
    rows: list[list[int]] = [[], []]
    for own, net in zip(rows, nets, strict=True):
        net.register_forward_pre_hook(lambda _, given, own=own: own.append(len(given[0])))
    worker = Worker(threads=1)

    async def together() -> list[Tensor]:
        batcher = StepBatcher(worker)
        return list(await asyncio.gather(*(drawn(batcher, pair, begun(pair, *each)) for each in steps.items())))

    found = asyncio.run(together())
    worker.close()
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    # Guided requests have two rows each; some calls hold several requests, at timesteps of their own.
    assert all(max(own) > 2 and sum(own) % 2 == 0 for own in rows)
    assert sum(map(sum, rows)) == 2 * sum(steps.values())
