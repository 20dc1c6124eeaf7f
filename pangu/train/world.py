"""A worker's place among the data-parallel workers of its job. Knows torch.distributed, but no Ray."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

Answer = TypeVar("Answer")


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

    def agreed(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` says to rank 0, on every worker; it is called there alone, and what it raises is raised everywhere."""
        if self.size == 1:
            return ask()
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = ask()
            except Exception as error:
                told[1] = error
        torch.distributed.broadcast_object_list(told, src=0, device=self.device)
        if told[1] is not None:
            raise told[1]
        return told[0]  # type: ignore[no-any-return]

    def shared(self, read: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that rank 0 reads, by name, on the CPU of every worker; the others read nothing."""
        if self.size == 1:
            return dict(read())
        mine: dict[str, Tensor] = {}

        def shapes() -> list[tuple[str, torch.Size, torch.dtype]]:
            mine.update(read())
            return [(name, tensor.shape, tensor.dtype) for name, tensor in mine.items()]

        for name, shape, dtype in self.agreed(shapes):
            passing = mine[name] if self.rank == 0 else torch.empty(shape, dtype=dtype)
            passing = passing.to(self.device)
            torch.distributed.broadcast(passing, src=0)
            mine[name] = passing.cpu()
        return mine
