"""Values by key, bounded in bytes, the least recently used dropped first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lru(Generic[Value]):
    """Holds at most `most_bytes`, as `size_of` counts them; 0 holds nothing."""

    def __init__(self, most_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._most_bytes, self._size_of = most_bytes, size_of
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> Value | None:
        """The value itself, not a copy; None if it is not there."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def keep(self, key: Hashable, value: Value) -> None:
        """Remember `value` under `key`, dropping others where there is no room."""
        size = self._size_of(value)
        if size > self._most_bytes:
            return
        if key in self._kept:
            self.used_bytes -= self._kept.pop(key)[1]
        self._kept[key] = value, size
        self.used_bytes += size
        while self.used_bytes > self._most_bytes:
            self.used_bytes -= self._kept.popitem(last=False)[1][1]
