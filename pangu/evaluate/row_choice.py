"""Which rows of many are chosen: by their places among all rows of their sort, in the order of keys. Seeded; holds no row.

Rows lie in a file by key (`sorted_rows`) and are read some at a time, as often as something is asked of them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.captions import LANGUAGES
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.sorting import Parts, sorted_by
from pangu.train.keyed_permutation import KeyedPermutation

COLUMNS = ["key", "caption_en", "caption_zh", "split", "style", "upscaled"]
"""What `facts_of` reads."""
FACTS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("style", pa.string()),
        *((language, pa.bool_()) for language in LANGUAGES),
        ("upscaled", pa.bool_()),
    ]
)
SHUFFLED_ROWS = 1 << 20
"""Of more rows, the choice is computed by a keyed permutation, because numpy's holds 8 bytes for each."""
Places = Mapping[str, np.ndarray]
"""Style -> places among the rows of a sort and that style, ascending."""


def facts_of(rows: pa.Table) -> pa.Table:
    """Schema `FACTS`; whether a row has a caption stands in the place of it. Columns that rows lack are null, or false."""
    found = {name: rows[name] for name in ("key", "split", "style") if name in rows.column_names}
    for language in LANGUAGES:
        found[language] = pc.greater(pc.binary_length(pc.fill_null(rows[f"caption_{language}"], "")), 0)
    upscaled = rows["upscaled"] if "upscaled" in rows.column_names else pa.array([False] * rows.num_rows)
    lacking = {name: pa.nulls(rows.num_rows) for name in FACTS.names}
    return pa.table({**lacking, **found, "upscaled": upscaled}).select(FACTS.names).cast(FACTS)


@dataclass(frozen=True)
class Sort:
    """Rows of these splits, with a caption in each of these languages, originals alone or all."""

    splits: tuple[str, ...]
    captioned: tuple[str, ...] = ()
    originals: bool = False


class SortedRows:
    """Rows by ascending key.

    facts: all of them (schema `FACTS`), anew whenever it is called. styles: those that are asked for; rows of any other, or of
    none, count as of the style "".
    """

    def __init__(self, facts: Callable[[], Iterable[pa.Table]], styles: Collection[str]) -> None:
        self._facts, self._styles = facts, sorted(styles)

    @classmethod
    def of(cls, rows: pa.Table, styles: Collection[str]) -> "SortedRows":
        """Of rows in memory."""
        facts = facts_of(rows).sort_by("key")
        return cls(lambda: [facts], styles)

    def languages(self) -> tuple[str, ...]:
        """Those in which any row has a caption, Chinese first."""
        found = {name for facts in self._facts() for name in LANGUAGES if pc.any(facts[name]).as_py()}
        return tuple(name for name in reversed(LANGUAGES) if name in found)

    def sizes(self, sort: Sort) -> Counter[str]:
        """Rows of each style."""
        found = Counter[str]()
        for _, style, at in self._each(sort):
            found[style] += len(at)
        return found

    def places_of(self, sort: Sort, keys: Collection[str]) -> dict[str, np.ndarray]:
        """Where these keys stand, those of them that are of the sort."""
        wanted, found, before = pa.array(sorted(keys), pa.string()), dict[str, list[np.ndarray]](), Counter[str]()
        for facts, style, at in self._each(sort):
            there = pc.is_in(facts["key"].take(pa.array(at)), wanted)
            found.setdefault(style, []).append(before[style] + np.flatnonzero(there))
            before[style] += len(at)
        return {style: np.concatenate(places) for style, places in found.items()}

    def keys_at(self, sort: Sort, places: Places) -> list[str]:
        """The keys at these places, sorted."""
        found, before = list[str](), Counter[str]()
        for facts, style, at in self._each(sort):
            mine, start = places.get(style, np.empty(0, np.int64)), before[style]
            inside = mine[np.searchsorted(mine, start) : np.searchsorted(mine, start + len(at))]
            if len(inside):
                found += facts["key"].take(pa.array(at[inside - start])).to_pylist()
            before[style] += len(at)
        return sorted(found)

    def _each(self, sort: Sort) -> Iterator[tuple[pa.Table, str, np.ndarray]]:
        """(rows, style, which of them are of the sort and that style)."""
        for facts in self._facts():
            mine = pc.is_in(facts["split"], pa.array(sort.splits))
            for language in sort.captioned:
                mine = pc.and_(mine, facts[language])
            if sort.originals:
                mine = pc.and_(mine, pc.invert(facts["upscaled"]))
            there = np.flatnonzero(mine)
            codes = pc.fill_null(pc.index_in(facts["style"], pa.array(self._styles, pa.string())), -1).to_numpy()[there]
            for code in np.unique(codes).tolist():
                yield facts, self._styles[code] if code >= 0 else "", there[codes == code]


@contextmanager
def sorted_rows(rows: Iterable[pa.Table], styles: Collection[str]) -> Iterator[SortedRows]:
    """Rows (with `COLUMNS`) in any order, sorted on the disk; gone when the block ends."""
    with ScratchFolder("pangu-rows-") as folder:
        # A file, because it is read as often as something is asked.
        file = Parts(folder / "sorted", FACTS, 1)
        for facts in sorted_by("key", map(facts_of, rows), folder):
            file.add(facts, np.zeros(facts.num_rows, np.int64))
        file.close()
        yield SortedRows(lambda: file.batches(0), styles)


def seeded_places(size: int, seed: int, count: int) -> np.ndarray:
    """The first `count` places of a seeded order of [0, size), all if there are fewer."""
    if size <= SHUFFLED_ROWS:
        return np.random.default_rng(seed).permutation(size)[:count]
    return KeyedPermutation(size, (seed,))(np.arange(min(count, size)))


def others(size: int, taken: np.ndarray, seed: int, count: int) -> np.ndarray:
    """`taken` (ascending) and so many more places of [0, size), in a seeded choice, that there are `count`; ascending."""
    chosen = np.sort(seeded_places(size - len(taken), seed, max(0, count - len(taken))))
    # The i-th place that is not taken has as many taken ones before it as their own ranks say.
    free = chosen + np.searchsorted(taken - np.arange(len(taken)), chosen, "right")
    return np.sort(np.concatenate([taken, free]))


def in_turn(sizes: Mapping[str, int], seed: int, count: int) -> dict[str, np.ndarray]:
    """`count` places: one of each style in turn, in a seeded order, so that they are spread evenly as long as there are rows."""
    mixed = {style: seeded_places(size, seed, count) for style, size in sorted(sizes.items())}
    taken, left = dict.fromkeys(mixed, 0), count
    for place in range(count):
        for style, order in mixed.items():
            if left and place < len(order):
                taken[style], left = place + 1, left - 1
    return {style: np.sort(order[: taken[style]]) for style, order in mixed.items()}
