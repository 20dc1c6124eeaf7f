"""Where the host would wait for a device, seen on any device: every way in which a tensor becomes a number of Python's."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

TOLD = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "numpy", "cpu", "__array__"}
"""Methods of a tensor whose answer the host has to wait for."""
COMPUTED = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}
"""Operators whose result, or its shape, depends on values: a GPU is waited for inside them."""


class Waits(TorchFunctionMode):
    """Counts them in this thread while it is open, by name; what other threads prepare is theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self._inside = _Computed(self.seen)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in TOLD:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> "Waits":
        super().__enter__()
        self._inside.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._inside.__exit__(*raised)
        super().__exit__(*raised)


class _Computed(TorchDispatchMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in COMPUTED:
            self._seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits(run: Callable[[], Any]) -> Counter[str]:
    """How often `run` waits, by the name of what waited. `float(x)` counts twice: the method, and the operator inside it."""
    with Waits() as counted:
        run()
    return counted.seen
