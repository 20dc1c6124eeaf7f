"""The structure cache: trajectories at the boundary, the least recently used dropped first, bounded in bytes.

A request whose structure half was drawn before continues from the boundary, at the cost of its texture half. What is drawn
does not depend on whether the cache had it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pangu.diffusion.trajectory import Trajectory


class StructureCache:
    """Holds at most `most_bytes` of latents and scheduler history; 0 holds nothing."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, Trajectory] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> Trajectory | None:
        """A trajectory of the caller's own, without conditioning; None if it is not there."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return _copied(self._kept[key])

    def keep(self, key: Hashable, trajectory: Trajectory) -> None:
        """Remember a copy under `key`, dropping others where there is no room."""
        entry = _without_conditioning(_copied(trajectory))
        size = bytes_of(entry)
        if size > self._most_bytes:
            return
        if key in self._kept:
            self.used_bytes -= bytes_of(self._kept.pop(key))
        self._kept[key] = entry
        self.used_bytes += size
        while self.used_bytes > self._most_bytes:
            self.used_bytes -= bytes_of(self._kept.popitem(last=False)[1])


def bytes_of(trajectory: Trajectory) -> int:
    """Of all tensors of the trajectory and of its scheduler."""
    tensors = [trajectory.latents_bchw, trajectory.timesteps, *_tensors_in(vars(trajectory.scheduler))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []


def _without_conditioning(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, conditioning=trajectory.conditioning.map(lambda tensor: tensor[:0].clone()))


def _copied(trajectory: Trajectory) -> Trajectory:
    """With a scheduler and noise sources of its own, so that both can go on."""
    twin = trajectory.to(trajectory.latents_bchw.device)
    sources = None
    if trajectory.generators is not None:
        sources = tuple(_twin_of(source) for source in trajectory.generators)
    return replace(twin, generators=sources)


def _twin_of(source: torch.Generator) -> torch.Generator:
    twin = torch.Generator(device=source.device)
    twin.set_state(source.get_state())
    return twin
