"""What a run will cost: calls of each network, decodes and encodes, and seconds.

Counts the schedule of calls; runs each part to time it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from pangu.pipelines.coop.bridge import Bridge, Side
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.sampling.call_schedule import Action, Call
from pangu.sampling.condition import Condition
from pangu.sampling.question import Networks, answered, ask
from pangu.sampling.sampling_state import SamplingState


@dataclass(frozen=True)
class CallCounts:
    """Counts by the name of the model. network_calls: forward passes of the denoiser; ControlNets run once beside each.

    seconds: None where nothing was timed.
    """

    network_calls: Mapping[str, int] = field(default_factory=dict)
    decodes: Mapping[str, int] = field(default_factory=dict)
    encodes: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None

    def __add__(self, other: "CallCounts") -> "CallCounts":
        timed = self.seconds is not None and other.seconds is not None
        return CallCounts(
            _sum(self.network_calls, other.network_calls),
            _sum(self.decodes, other.decodes),
            _sum(self.encodes, other.encodes),
            (self.seconds or 0) + (other.seconds or 0) if timed else None,
        )

    def __str__(self) -> str:
        names = list(dict.fromkeys([*self.network_calls, *self.decodes, *self.encodes]))
        lines = [
            f"{name}: {self.network_calls.get(name, 0)} network calls, {self.decodes.get(name, 0)} decodes, "
            f"{self.encodes.get(name, 0)} encodes"
            for name in names
        ]
        return "\n".join(lines + ([] if self.seconds is None else [f"about {self.seconds:.3g} s"]))


def count(state: SamplingState, main: Side, until: int | None = None) -> CallCounts:
    """What `run(until)` will do, and `estimate()` where it stops before the end."""
    calls = state.calls if until is None else state.calls[: until - state.first]
    network, decodes, encodes = Counter[str](), Counter[str](), Counter[str]()
    if until is not None and until < len(state.trajectory.timesteps):
        calls = [*calls, _without_return(state.calls[until - state.first])]
    _count(calls, state, main, network, decodes, encodes)
    return CallCounts(dict(network), dict(decodes), dict(encodes))


def _count(
    calls: Sequence[Call],
    state: SamplingState,
    main: Side,
    network: Counter[str],
    decodes: Counter[str],
    encodes: Counter[str],
) -> None:
    for call in calls:
        if call.main:
            network[main.adapter.name] += state.trajectory.condition.calls
        for (side, shared, condition), own_call in zip(_partners(state), call.partner_calls, strict=True):
            asked = own_call.action is Action.ASK
            if asked:
                network[side.adapter.name] += condition.calls
            if shared:
                continue
            returning = int(own_call.enters) + int(own_call.returns)
            crossing(side, main, int(asked), decodes, encodes)
            crossing(main, side, returning, decodes, encodes)


def crossing_plan(start: Side, end: Side, times: int) -> CallCounts:
    """What it costs when clean pictures cross `times` times."""
    decodes, encodes = Counter[str](), Counter[str]()
    crossing(start, end, times, decodes, encodes)
    return CallCounts({}, dict(decodes), dict(encodes))


def crossing(start: Side, end: Side, times: int, decodes: Counter[str], encodes: Counter[str]) -> None:
    """Pictures that go over a bridge: models of pixels neither decode nor encode."""
    if times and start.adapter.vae is not None:
        decodes[start.adapter.name] += times
    if times and end.adapter.vae is not None:
        encodes[end.adapter.name] += times


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _without_return(call: Call) -> Call:
    return Call(call.main, tuple(replace(own_call, returns=False) for own_call in call.partner_calls))


def timed(plan: CallCounts, state: SamplingState, main: Side) -> CallCounts:
    """The plan with the seconds that its parts take, each measured once after one call that warms it up."""
    seconds, images = 0.0, len(state.trajectory.latents_bchw)
    members = [(main, state.trajectory.condition), *((side, condition) for side, _, condition in _partners(state))]
    for side, condition in members:
        adapter, name = side.adapter, side.adapter.name
        latents = torch.zeros(side.shape(images), device=adapter.device)
        if plan.network_calls.get(name):
            once = _seconds(partial(_predicted, adapter, latents, condition), adapter.device)
            seconds += once * plan.network_calls[name] / condition.calls
        if plan.decodes.get(name):
            seconds += plan.decodes[name] * _seconds(partial(side.pixels, latents), adapter.device)
        if plan.encodes.get(name):
            pixels = torch.zeros(images, 3, side.height, side.width, device=adapter.device)
            seconds += plan.encodes[name] * _seconds(partial(side.latents, pixels), adapter.device)
    return replace(plan, seconds=seconds)


def _predicted(adapter: ModelAdapter, noisy_bchw: Tensor, condition: Condition) -> Tensor:
    """One prediction where signal and noise are equal."""
    timestep = torch.tensor(adapter.levels.timestep(0.0))
    return answered(ask(adapter, noisy_bchw, timestep, condition), Networks())


def _partners(state: SamplingState) -> list[tuple[Side, bool, Condition]]:
    """Each partner's side of its bridge, whether nothing has to cross it, and its condition."""
    bridges = [(cast("Bridge", partner.bridge), partner.condition) for partner in state.partners]
    return [(bridge.partner, bridge.shared, condition) for bridge, condition in bridges]


@torch.inference_mode()
def _seconds(run: Callable[[], object], device: torch.device) -> float:
    run()
    _finish(device)
    began = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
