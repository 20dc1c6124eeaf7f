"""A dictionary that holds the most recently used values, and no more than so many bytes (or things) of them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Holds values whose sizes add up to at most `most`; the least recently used makes way. Not for several threads at once.

    size_of: of a value, in the unit of `most`; by default each is one.
    """

    def __init__(self, most: float, size_of: Callable[[Value], float] = lambda _: 1) -> None:
        self._most, self._size_of = most, size_of
        self._kept: OrderedDict[Key, tuple[Value, float]] = OrderedDict()
        self.used = 0.0
        """The sum of the sizes of what is held."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __getitem__(self, key: Key) -> Value:
        return self._kept[key][0]

    def get(self, key: Key) -> Value | None:
        """The value, which is now the last one to make way; None where there is none."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def keep(self, key: Key, value: Value) -> None:
        """Hold `value` under `key`; what is larger than the whole cache is not held, and changes nothing."""
        size = self._size_of(value)
        if size > self._most:
            return
        self.drop(key)
        while self.used + size > self._most:
            self.drop(next(iter(self._kept)))
        self._kept[key] = value, size
        self.used += size

    def drop(self, key: Key) -> None:
        """Let go of what is held under `key`, if anything is."""
        if key in self._kept:
            self.used -= self._kept.pop(key)[1]

    def drop_where(self, over: Callable[[Value], bool]) -> None:
        """Let go of every value of which `over` is true."""
        for key in [key for key, (value, _) in self._kept.items() if over(value)]:
            self.drop(key)
