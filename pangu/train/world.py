"""A worker's place among the data-parallel workers of its job. Knows torch.distributed, but no Ray."""

from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size` workers, computing on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, indices: list[int]) -> tuple[list[int], int]:
        """This worker's slice of a global batch and the position where it starts; shares differ by one sample at most."""
        start, end = (len(indices) * rank // self.size for rank in (self.rank, self.rank + 1))
        return indices[start:end], start

    def total(self, value: Tensor) -> Tensor:
        """Sum of `value` over all workers, in its place; nothing waits for it."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def sum(self, value: float) -> float:
        """Of every worker's `value`."""
        return float(self.total(torch.tensor(value, dtype=torch.float64, device=self.device)))
