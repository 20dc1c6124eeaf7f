"""Pools that share one place on a device: one half after the other, and the same pictures."""

import asyncio
import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pangu.models.residence import Residence
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import StepBatcher
from pangu.serve.inference.turns import Turns
from pangu.serve.settings import ServeSettings
from tests.serve.inference.test_steps import begun


class Watched(Residence):
    """Counts who comes."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.came: list[nn.Module] = []

    def bring(self, network: nn.Module) -> None:
        if self._there() is not network:
            self.came.append(network)
        super().bring(network)


async def drawn(batchers: dict[str, StepBatcher], pair: PanGuDrawPipeline, trajectory: Trajectory) -> Trajectory:
    """One request, through both pools."""
    for part, batcher in batchers.items():
        run = await batcher.run(half(pair, part, trajectory), owned_by(pair, part), watch=lambda _: None)
        trajectory = run.state.trajectory
    return trajectory


def test_halves_take_turns_with_all_requests_that_are_there_and_nobody_waits_for_ever() -> None:
    usual, worker = untrained_pair(tiny()), Worker(threads=1)
    pair = PanGuDrawPipeline(**copy.deepcopy(usual.components), contracts=dict(usual.config.contracts))
    place = Watched()
    pair.offload_idle(place)

    async def crowd(pipeline: PanGuDrawPipeline, turns: Turns | None, latecomers: int = 6) -> list[Trajectory]:
        batchers = {part: StepBatcher(worker, 1, None, turns) for part in ("structure", "texture")}
        first = [asyncio.create_task(drawn(batchers, pipeline, begun(pipeline, seed))) for seed in (1, 2)]
        late: list[Any] = []
        for seed in range(3, 3 + latecomers):
            await asyncio.sleep(0.01)
            late.append(asyncio.create_task(drawn(batchers, pipeline, begun(pipeline, seed))))
        return list(await asyncio.wait_for(asyncio.gather(*first, *late), 60))

    try:
        apart = asyncio.run(crowd(usual, None))
        together = asyncio.run(crowd(pair, Turns(place)))
        for one, other in zip(apart, together, strict=True):
            assert torch.equal(one.latents_bchw, other.latents_bchw) and other.finished
        # Four steps of each half of eight requests; each that changed the half on the device would make 64.
        assert 2 <= len(place.came) <= 2 * 8
    finally:
        worker.close()


def test_settings_that_can_not_be_together_are_refused() -> None:
    for told in ({"structure": {"execution": "captured"}}, {"loras": {"a": {"texture": "x"}}}):
        with pytest.raises(ValidationError, match="the weights of a half come and go"):
            ServeSettings.model_validate({"offload_idle": True} | told)
