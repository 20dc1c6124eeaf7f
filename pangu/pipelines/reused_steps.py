"""What one request keeps of its own steps, so that a half that reuses some need not compute them all."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from pangu.config import Reuse, Role
from pangu.models.deep_features import feature_channels
from pangu.models.step_caches import Memory, StepCache
from pangu.sampling.condition import Condition
from pangu.sampling.question import Network, Question

Way = Literal["gives", "takes", "remembers"]
"""How a network is asked: it gives deep features, takes them, or remembers its rows."""


@dataclass
class _Features:
    tensor: Tensor
    uses_left: int


class ReusedSteps:
    """Of one request. All is let go of when another half takes over, and when the parts of the guidance are others."""

    def __init__(self) -> None:
        self._of: Hashable = None
        self._features: dict[int, _Features] = {}
        self._memories: dict[int, list[Memory]] = {}

    def question(
        self, reuse: Reuse, role: Role, network: Any, condition: Condition, plain: Question, ways: dict[Way, Network]
    ) -> Question:
        """`plain`, asked in the way of this step. ways: the network of `plain`, asked in each of them."""
        of = role, len(condition.parts), condition.batched
        if of != self._of:
            self._of, self._features, self._memories = of, {}, {}
        # Parts that are asked one after the other are told apart by their text.
        place = 0 if condition.batched else plain.inputs[2].data_ptr()
        if reuse.kind != "deep_features":
            return self._remembered(place, StepCache.of(network), plain, ways["remembers"])
        kept = self._features.get(place)
        if kept is not None and kept.uses_left > 0 and len(kept.tensor) == plain.rows:
            kept.uses_left -= 1
            return Question(ways["takes"], (*plain.inputs, kept.tensor))
        take = partial(self._take, place, feature_channels(network), reuse.every - 1)
        return replace(plain, network=ways["gives"], then=take)

    def _take(self, place: int, channels: int, uses: int, answer: Tensor) -> Tensor:
        """Keep what came on the last `channels` of an answer, and return the rest."""
        # Its own memory: the answer may be a part of what a whole batch got.
        self._features[place] = _Features(answer[:, -channels:].clone(), uses)
        return answer[:, :-channels]

    def _remembered(self, place: int, cache: StepCache | None, plain: Question, way: Network) -> Question:
        assert cache is not None, "the switch puts it on the network"
        memories = self._memories.get(place, [])
        if sum(memory.rows for memory in memories) != plain.rows:
            memories = self._memories[place] = cache.memories(plain.rows)
        seats = [(float(memory.number), float(row)) for memory in memories for row in range(memory.rows)]
        return Question(way, (*plain.inputs, torch.tensor(seats, dtype=torch.float64)))
