"""Which images compete with the true one. Every choice is seeded and independent of the order of the table."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pangu.evaluate.prompts import Ask, Prompts
from pangu.evaluate.protocol import Protocol
from pangu.evaluate.row_choice import Sort, SortedRows, others


def choose_pools(rows: pa.Table, chosen: Mapping[Ask, Prompts], protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """The candidates of each retrieval figure, so many of each style; the true images are always among them."""
    return pools_of(SortedRows.of(rows, tuple(protocol.styles)), chosen, protocol)


def pools_of(rows: SortedRows, chosen: Mapping[Ask, Prompts], protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """As `choose_pools`, of rows that lie on the disk."""
    trained = chosen["train"].keys

    def pool(sort: Sort, count: int | None) -> tuple[str, ...]:
        return tuple(sample_keys(rows, sort, trained, count, protocol.seed))

    train = Sort(("train",))
    pools = {"retrieval": pool(Sort(("train", "held_out")), protocol.candidates)}
    if "held_out" in chosen:
        pools["memory"] = pool(train, protocol.memory_candidates)
        pools["understanding"] = pool(Sort(("held_out",)), None)
    for name, asked in (("templates", protocol.templates), ("keywords", protocol.keywords)):
        if asked:
            pools[name] = pool(train, protocol.memory_candidates)
    return pools


def sample_keys(rows: SortedRows, sort: Sort, always: tuple[str, ...], count: int | None, seed: int) -> list[str]:
    """`count` keys of each style in a seeded choice (None: all), among them those of `always` that are of the sort; sorted."""
    sizes, known = rows.sizes(sort), rows.places_of(sort, always)
    places = {
        style: np.arange(size) if count is None or count >= size else others(size, known[style], seed, count)
        for style, size in sizes.items()
    }
    return rows.keys_at(sort, places)
