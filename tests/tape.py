"""A CUDA graph as a CPU can have one: the operators that ran, run again on the very same memory, and no Python between them.

A number that was baked in stays what it was, a tensor that moved elsewhere is not followed: what a recording depends on shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape:
    """Records and counts. It refuses to record where `fails` says why."""

    def __init__(self, fails: str | None = None) -> None:
        self.recorded: list[tuple[tuple[int, ...], ...]] = []
        """Shapes of the inputs of each recording."""
        self._fails = fails

    def __call__(
        self, run: Callable[..., Tensor], inputs: Sequence[Tensor], beside: Any = None
    ) -> Callable[[], Tensor]:
        if self._fails is not None:
            raise RuntimeError(self._fails)
        with _Operators() as seen:
            result = run(*inputs)
        self.recorded.append(tuple(tuple(each.shape) for each in inputs))

        def replay() -> Tensor:
            for again in seen.calls:
                again()
            return result

        return replay


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        made = [each for each in tree_leaves(results) if isinstance(each, Tensor)]
        own = [each.untyped_storage().data_ptr() not in given for each in made]
        if func._schema.is_mutable:
            self.calls.append(lambda: func(*args, **kwargs))
        elif any(own):

            def again() -> None:
                new = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
                for into, value, is_own in zip(made, new, own, strict=True):
                    if is_own:
                        into.copy_(value)

            self.calls.append(again)
        return results
