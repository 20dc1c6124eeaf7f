"""The tensors that a tensor consists of: itself, or those inside a weight that is kept quantised."""

from collections.abc import Iterator

from torch import Tensor


def inner_tensors(tensor: Tensor, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor with memory of its own; `name` is that of the whole, and begins those of its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from inner_tensors(getattr(tensor, part), f"{name}.{part}")
