"""Which rows are made at all, before anything is decoded: those with a caption, and of equal bytes the first. Reads no image."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Plan:
    """The rows to be made, by the ingest and the raw shard that hold their bytes, and what was dropped to get there.

    rows: Tables of schema `pangu.data.ingest.raw.ROWS`, none of them a view of a larger one: they travel to other processes.
    """

    rows: dict[tuple[str, int], pa.Table]
    dropped: Counter[str]


def plan_rows(listed: pa.Table, describes: bool = False) -> Plan:
    """Drop rows without any caption, then all but the first row of equal bytes, in the listing's order.

    Args:
        listed: Every row of an ingest, schema `pangu.data.ingest.raw.ROWS`; failed ones are passed over.
        describes: A model may still write a caption, so that none has to be there.
    """
    came = listed.filter(pc.equal(listed["reason"], ""))
    captioned = came if describes else came.filter(pc.or_(_has_text(came["caption_en"]), _has_text(came["caption_zh"])))
    kept = captioned.take(_first_of_each(captioned["sha256"]))
    dropped = {"missing_caption": came.num_rows - captioned.num_rows, "duplicate": captioned.num_rows - kept.num_rows}
    return Plan(_by_shard(kept), Counter({reason: count for reason, count in dropped.items() if count}))


def _has_text(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater(pc.fill_null(pc.binary_length(captions), 0), 0)


def _first_of_each(values: pa.ChunkedArray) -> np.ndarray:
    """Where each value stands for the first time, in ascending order."""
    at = pa.table({"value": values, "at": np.arange(len(values))})
    return np.sort(at.group_by("value").aggregate([("at", "min")])["at_min"].to_numpy())


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
