"""What stands in for prometheus-client's classes where the extra `platform` is not installed: nothing is counted."""

from typing import Any, Self


class Uncounted:
    """Takes whatever a counter, gauge or histogram is told, and keeps none of it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def labels(self, *_: str) -> Self:
        return self

    def inc(self, amount: float = 1) -> None:
        pass

    def set(self, value: float) -> None:
        pass

    def observe(self, value: float) -> None:
        pass
