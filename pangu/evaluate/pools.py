"""Which images compete with the true one. Every choice is seeded and independent of the order of the table."""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pangu.evaluate.prompts import Ask, Prompts, asked_styles, shuffled
from pangu.evaluate.protocol import Protocol


def choose_pools(rows: pa.Table, chosen: Mapping[Ask, Prompts], protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """The candidates of each retrieval figure, so many of each style; the true images are always among them."""
    trained = chosen["train"].keys
    of = {
        split: _keys_by_style(rows.filter(pc.equal(rows["split"], split)), tuple(protocol.styles))
        for split in ("train", "held_out")
    }
    every = _keys_by_style(rows.filter(pc.is_in(rows["split"], pa.array(list(of)))), tuple(protocol.styles))

    def pool(groups: Mapping[str, list[str]], count: int | None) -> tuple[str, ...]:
        samples = (sample_keys(keys, _within(trained, keys), count, protocol.seed) for keys in groups.values())
        return tuple(sorted(key for sample in samples for key in sample))

    pools = {"retrieval": pool(every, protocol.candidates)}
    if "held_out" in chosen:
        pools["memory"] = pool(of["train"], protocol.memory_candidates)
        pools["understanding"] = pool(of["held_out"], None)
    for name, asked in (("templates", protocol.templates), ("keywords", protocol.keywords)):
        if asked:
            pools[name] = pool(of["train"], protocol.memory_candidates)
    return pools


def sample_keys(keys: list[str], always: tuple[str, ...], count: int | None, seed: int) -> tuple[str, ...]:
    """`count` keys in a seeded choice (None: all), among them those of `always`, sorted."""
    if count is None or count >= len(keys):
        return tuple(keys)
    kept = set(always)
    others = [key for key in keys if key not in kept]
    return tuple(sorted(kept | set(shuffled(others, seed)[: max(0, count - len(kept))])))


def _keys_by_style(rows: pa.Table, styles: Collection[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, style in sorted(zip(rows["key"].to_pylist(), asked_styles(rows, styles), strict=True)):
        groups.setdefault(style, []).append(key)
    return groups


def _within(keys: Sequence[str], group: list[str]) -> tuple[str, ...]:
    members = set(group)
    return tuple(key for key in keys if key in members)
