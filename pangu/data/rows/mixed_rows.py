"""Rows of several datasets as the rows of one training, one dataset after the other."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pangu.data.captions import Caption
from pangu.data.rows.row_numbers import joined
from pangu.data.rows.training_rows import Rows, Share, Wording, rehearsed

Asked = Callable[[Rows, list[int], list[int]], tuple[Tensor, ...] | None]
"""(part, its rows, their places in the batch) -> tensors with a line for each."""


class MixedRows:
    """`Rows` of several datasets that share encoders and sizes. Those of each are sorted by key; one image may be in several.

    names: of the datasets.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Rows], weights: Sequence[float]) -> None:
        self.names, self.parts = tuple(names), tuple(parts)
        self.shares = tuple(Share(len(part), weight) for part, weight in zip(parts, weights, strict=True))
        self._ends = np.cumsum([share.rows for share in self.shares])
        self.keys: Sequence[str] = _Joined([part.keys for part in parts], self._ends)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def min_timestep_n(self) -> Tensor:
        return joined([part.min_timestep_n for part in self.parts])

    @cached_property
    def preset_n(self) -> Tensor:
        return joined([part.preset_n for part in self.parts])

    def expect(self, rows: Sequence[int]) -> None:
        part_b = self.part_of(rows)
        for number in np.unique(part_b).tolist():
            self.parts[number].expect(self._own(number, rows, np.flatnonzero(part_b == number)))

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        part_b = self.part_of(rows)
        found: dict[int, Wording] = {}
        for number in np.unique(part_b).tolist():
            where = np.flatnonzero(part_b == number)
            found |= zip(where.tolist(), self.parts[number].wordings(self._own(number, rows, where)), strict=True)
        return [found[place] for place in range(len(rows))]

    def latents(self, rows: Sequence[int]) -> Tensor:
        found = self._gathered(rows, lambda part, own, _: (part.latents(own),))
        assert found is not None
        return found[0]

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        found = self._gathered(rows, lambda part, own, _: _some(part.lower(own)))
        return None if found is None else found[0]

    def control(self, rows: Sequence[int]) -> Tensor | None:
        found = self._gathered(rows, lambda part, own, _: _some(part.control(own)))
        return None if found is None else found[0]

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        found = self._gathered(
            rows, lambda part, own, places: part.captions(own, [captions[place] for place in places])
        )
        assert found is not None
        tokens, pooled = found
        return tokens, pooled

    def part_of(self, rows: Sequence[int]) -> np.ndarray:
        """(B,) which dataset each row is of."""
        return np.searchsorted(self._ends, np.asarray(rows), side="right")

    def _own(self, number: int, rows: Sequence[int], where: np.ndarray) -> list[int]:
        """The rows at some places, as the part `number` counts its own."""
        return (np.asarray(rows)[where] - self._ends[number] + self.shares[number].rows).tolist()

    def _gathered(self, rows: Sequence[int], asked: Asked) -> tuple[Tensor, ...] | None:
        """What every part says of its rows, in the order of `rows`."""
        part_b = self.part_of(rows)
        found, places = [], []
        for number in np.unique(part_b).tolist():
            where = np.flatnonzero(part_b == number)
            own = asked(self.parts[number], self._own(number, rows, where), where.tolist())
            if own is None:
                return None
            found.append(own)
            places.append(where)
        if len(found) == 1:
            return found[0]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return tuple(
            torch.cat([one.to(each[0].device) for one in each])[back.to(each[0].device)]
            for each in zip(*found, strict=True)
        )


def beside(rows: Rows, dataset: str, name: str, other: Rows, share: float) -> MixedRows:
    """The rows (of `dataset`, unless they are a mixture) and, called `name`, others that are `share` of what is drawn of all."""
    parts, names = (rows.parts, rows.names) if isinstance(rows, MixedRows) else ((rows,), (dataset,))
    shares = rows.shares if isinstance(rows, MixedRows) else (Share(len(rows), 1.0),)
    weights = [one.weight for one in (*shares, rehearsed(shares, len(other), share))]
    return MixedRows([*names, name], [*parts, other], weights)


def shares_of(rows: Rows) -> tuple[Share, ...]:
    """The parts of a mixture; () of one dataset whose rows all appear once an epoch."""
    return rows.shares if isinstance(rows, MixedRows) else ()


def in_turn(rows: Rows, chosen: Sequence[int]) -> list[int]:
    """The chosen rows, one of each dataset of a mixture in turn."""
    if not isinstance(rows, MixedRows):
        return list(chosen)
    part_b = rows.part_of(chosen)
    before = np.empty(len(chosen), np.int64)
    for number in np.unique(part_b):
        before[part_b == number] = np.arange(int((part_b == number).sum()))
    return [chosen[place] for place in np.lexsort((part_b, before)).tolist()]


def _some(value: Tensor | None) -> tuple[Tensor, ...] | None:
    return None if value is None else (value,)


class _Joined(Sequence[str]):
    """Sequences one after the other, none of which is copied."""

    def __init__(self, parts: Sequence[Sequence[str]], ends: np.ndarray) -> None:
        self._parts, self._ends = parts, ends

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            assert step == 1
            starts = [0, *self._ends[:-1].tolist()]
            return [
                value
                for part, start in zip(self._parts, starts, strict=True)
                for value in part[max(first - start, 0) : max(last - start, 0)]
            ]
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - (int(self._ends[part - 1]) if part else 0)]

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part
