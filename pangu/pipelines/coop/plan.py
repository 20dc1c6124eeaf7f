"""What a run will cost: calls of each network, decodes and encodes, and seconds.

Counts the timetable; runs each part to time it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from pangu.pipelines.coop.bridge import Side
from pangu.pipelines.coop.family import Condition
from pangu.pipelines.coop.timetable import Call, Part
from pangu.pipelines.coop.walk import Cooperation


@dataclass(frozen=True)
class Plan:
    """Counts by the name of the model. network_calls: forward passes of the denoiser; ControlNets run once beside each.

    seconds: None where nothing was timed.
    """

    network_calls: Mapping[str, int] = field(default_factory=dict)
    decodes: Mapping[str, int] = field(default_factory=dict)
    encodes: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None

    def __add__(self, other: "Plan") -> "Plan":
        timed = self.seconds is not None and other.seconds is not None
        return Plan(
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


def count(cooperation: Cooperation, until: int | None = None) -> Plan:
    """What `run(until)` will do, and `estimate()` where it stops before the end."""
    calls = cooperation.calls if until is None else cooperation.calls[: until - cooperation.first]
    network, decodes, encodes = Counter[str](), Counter[str](), Counter[str]()
    _count(calls, cooperation, network, decodes, encodes)
    if until is not None and until < cooperation.sampler.calls:
        _count([_without_return(cooperation.calls[until - cooperation.first])], cooperation, network, decodes, encodes)
    return Plan(dict(network), dict(decodes), dict(encodes))


def _count(
    calls: Sequence[Call],
    cooperation: Cooperation,
    network: Counter[str],
    decodes: Counter[str],
    encodes: Counter[str],
) -> None:
    for call in calls:
        if call.main:
            network[cooperation.family.name] += cooperation.condition.calls
        for guest, turn in zip(cooperation.guests, call.turns, strict=True):
            asked = turn.part is Part.ASK
            if asked:
                network[guest.family.name] += guest.condition.calls
            if guest.bridge.shared:
                continue
            returning = int(turn.enters) + int(turn.returns)
            crossing(guest.bridge.partner, guest.bridge.main, int(asked), decodes, encodes)
            crossing(guest.bridge.main, guest.bridge.partner, returning, decodes, encodes)


def crossing_plan(start: Side, end: Side, times: int) -> Plan:
    """What it costs when clean pictures cross `times` times."""
    decodes, encodes = Counter[str](), Counter[str]()
    crossing(start, end, times, decodes, encodes)
    return Plan({}, dict(decodes), dict(encodes))


def crossing(start: Side, end: Side, times: int, decodes: Counter[str], encodes: Counter[str]) -> None:
    """Pictures that go over a bridge: models of pixels neither decode nor encode."""
    if times and start.family.vae is not None:
        decodes[start.family.name] += times
    if times and end.family.vae is not None:
        encodes[end.family.name] += times


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _without_return(call: Call) -> Call:
    return Call(call.main, tuple(replace(turn, returns=False) for turn in call.turns))


def timed(plan: Plan, cooperation: Cooperation) -> Plan:
    """The plan with the seconds that its parts take, each measured once after one call that warms it up."""
    seconds, images = 0.0, len(cooperation.latents_bchw)
    for side, condition in _members(cooperation):
        family, name = side.family, side.family.name
        latents = torch.zeros(side.shape(images), device=family.device)
        if plan.network_calls.get(name):
            timestep = torch.tensor(family.levels.timestep(0.0), device=family.device)
            with family.at_work():
                once = _seconds(partial(family.predict, latents, timestep, condition), family.device)
            seconds += once * plan.network_calls[name] / condition.calls
        if plan.decodes.get(name):
            seconds += plan.decodes[name] * _seconds(partial(side.pixels, latents), family.device)
        if plan.encodes.get(name):
            pixels = torch.zeros(images, 3, side.height, side.width, device=family.device)
            seconds += plan.encodes[name] * _seconds(partial(side.latents, pixels), family.device)
    return replace(plan, seconds=seconds)


def _members(cooperation: Cooperation) -> list[tuple[Side, Condition]]:
    """Each model's side of its bridge, and its condition; the main first."""
    members = [(cooperation.side, cooperation.condition)]
    return members + [(guest.bridge.partner, guest.condition) for guest in cooperation.guests]


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
