"""What the structure pool need not compute twice: trajectories at the boundary, and what the text towers said of a prompt.

A request whose structure half was drawn before continues from the boundary, at the cost of its texture half. What is drawn
does not depend on whether a cache had it.
"""

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import torch
from cachetools import LRUCache
from torch import Tensor

from pangu.diffusion.trajectory import Conditioning, Trajectory

Value = TypeVar("Value")


class StructureCache:
    """Holds at most `most_bytes` of latents and scheduler history; 0 holds nothing."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: LRUCache[Hashable, Trajectory] = LRUCache(most_bytes, bytes_of)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        return int(self._kept.currsize)

    def find(self, key: Hashable) -> Trajectory | None:
        """A trajectory of the caller's own, without conditioning; None if it is not there."""
        kept = self._kept.get(key)
        return None if kept is None else _copied(kept)

    def keep(self, key: Hashable, trajectory: Trajectory) -> None:
        """Remember a copy under `key`, dropping others where there is no room."""
        keep(self._kept, key, _without_conditioning(_copied(trajectory)))


def text_cache(most_bytes: int) -> LRUCache[Hashable, Conditioning]:
    """What the text towers said of single prompts; nobody changes a tensor of a conditioning, so it is handed out as it is."""
    return LRUCache(most_bytes, bytes_of_text)


def keep(cache: LRUCache[Hashable, Value], key: Hashable, value: Value) -> None:
    """Remember `value` under `key`, dropping the least recently used; what is larger than the whole cache is not kept."""
    with suppress(ValueError):
        cache[key] = value


def bytes_of_text(conditioning: Conditioning) -> int:
    """Of all its tensors."""
    texts = [
        (conditioning.tokens_bnc, conditioning.pooled_bp),
        (conditioning.negative_tokens_bnc, conditioning.negative_pooled_bp),
        *((style.tokens_bnc, style.pooled_bp) for style in conditioning.styles),
    ]
    return sum(tensor.numel() * tensor.element_size() for text in texts for tensor in text)


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
