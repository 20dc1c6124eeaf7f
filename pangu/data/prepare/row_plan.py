"""Which rows are made at all, before anything is decoded: those with a caption, and of equal bytes one with all their captions.

Reads no image.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.captions import KEYWORDS, LANGUAGES, MORE


@dataclass(frozen=True)
class RowPlan:
    """The rows to be made, by the ingest and the raw shard that hold their bytes, and what was dropped to get there.

    rows: Tables of schema `pangu.data.ingest.raw.ROWS`, none of them a view of a larger one: they travel to other processes.
    """

    rows: dict[tuple[str, int], pa.Table]
    dropped: Counter[str]


def plan_rows(listed: pa.Table, describes: bool = False) -> RowPlan:
    """Drop rows without any caption, then all but the first row of equal bytes, which gets the words of the others.

    Args:
        listed: Every row of an ingest, schema `pangu.data.ingest.raw.ROWS`; failed ones are passed over.
        describes: A model may still write a caption, so that none has to be there.
    """
    came = listed.filter(pc.equal(listed["reason"], ""))
    captioned = came if describes else came.filter(pc.or_(_has_text(came["caption_en"]), _has_text(came["caption_zh"])))
    kept = captioned.take(_first_of_each(captioned["sha256"]))
    dropped = {"missing_caption": came.num_rows - captioned.num_rows, "duplicate": captioned.num_rows - kept.num_rows}
    if kept.num_rows < captioned.num_rows:
        kept = _with_captions_of_all(kept, captioned)
    return RowPlan(_by_shard(kept), Counter({reason: count for reason, count in dropped.items() if count}))


def _has_text(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater(pc.fill_null(pc.binary_length(captions), 0), 0)


def _first_of_each(values: pa.ChunkedArray) -> np.ndarray:
    """Where each value stands for the first time, in ascending order."""
    at = pa.table({"value": values, "at": np.arange(len(values))})
    return np.sort(at.group_by("value").aggregate([("at", "min")])["at_min"].to_numpy())


def _with_captions_of_all(kept: pa.Table, captioned: pa.Table) -> pa.Table:
    """Rows with the captions and keywords of all rows of equal bytes, each once, in the listing's order."""
    counts = captioned.group_by("sha256").aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))["sha256"].combine_chunks()
    doubled = captioned.filter(pc.is_in(captioned["sha256"], repeated))
    keys, places = doubled["sha256"].to_pylist(), pc.index_in(kept["sha256"], repeated)
    for language in LANGUAGES:
        first, more, words = f"caption_{language}", MORE[language], KEYWORDS[language]
        pairs = zip(doubled[first].to_pylist(), doubled[more].to_pylist(), strict=True)
        captions = _merged(keys, ([caption, *(others or ())] for caption, others in pairs))
        keywords = _merged(keys, (own or [] for own in doubled[words].to_pylist()))
        merged = [captions[key] for key in repeated.to_pylist()]
        firsts = pa.array([texts[0] if texts else "" for texts in merged], pa.string())
        rests = pa.array([texts[1:] or None for texts in merged], kept[more].type)
        alike = pa.array([keywords[key] or None for key in repeated.to_pylist()], kept[words].type)
        for name, values in ((first, firsts), (more, rests), (words, alike)):
            column = pc.if_else(pc.is_valid(places), values.take(places), kept[name])
            kept = kept.set_column(kept.column_names.index(name), kept.schema.field(name), column)
    return kept


def _merged(keys: Sequence[str], texts: Iterable[Sequence[str | None]]) -> dict[str, list[str]]:
    """All texts of each key, each once, in their order."""
    found: dict[str, dict[str, None]] = {key: {} for key in keys}
    for key, own in zip(keys, texts, strict=True):
        found[key].update(dict.fromkeys(filter(None, own)))
    return {key: list(own) for key, own in found.items()}


def _by_shard(rows: pa.Table) -> dict[tuple[str, int], pa.Table]:
    """The rows of each (ingest, shard), in the order of the listing."""
    shards = rows.select(["ingest", "shard"]).append_column("at", pa.array(np.arange(rows.num_rows)))
    order = pc.sort_indices(shards, [(name, "ascending") for name in ("ingest", "shard", "at")])
    counts = shards.group_by(["ingest", "shard"]).aggregate([([], "count_all")])
    counts = counts.sort_by([("ingest", "ascending"), ("shard", "ascending")])
    found, start = {}, 0
    for shard in counts.to_pylist():
        end = start + shard["count_all"]
        found[shard["ingest"], shard["shard"]] = rows.take(order[start:end])
        start = end
    return found
