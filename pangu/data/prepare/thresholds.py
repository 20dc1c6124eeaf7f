"""Which of many rows miss a threshold of a card; whole columns at a time."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.captions import MORE
from pangu.data.filters import REASONS, Filters


def reasons_of(rows: pa.Table, filters: Filters) -> pa.Array:
    """The first threshold that each row misses, one of `REASONS`; "" where it passes. A score that is null passes.

    rows: the columns of `pangu.data.table.schema.FACTS` that thresholds look at.
    """
    asks_length = filters.min_caption_length is not None or filters.max_caption_length is not None
    longest = _longest_caption(rows) if asks_length else pa.nulls(rows.num_rows, pa.int64())
    missed = (
        _below(pc.min_element_wise(rows["original_width"], rows["original_height"]), filters.min_side),
        _above(rows["aspect"], filters.max_aspect),
        _below(longest, filters.min_caption_length),
        _above(longest, filters.max_caption_length),
        pc.or_(_below(rows["english"], filters.min_english), _below(rows["chinese"], filters.min_chinese)),
        _above(rows["text_area"], filters.max_text_area),
        _above(rows["nsfw"], filters.max_nsfw),
        _below(rows["clip_score"], filters.min_clip_score),
        _below(rows["aesthetic"], filters.min_aesthetic),
        _above(rows["min_timestep"], filters.max_min_timestep),
    )
    found = pa.array([""] * rows.num_rows, pa.string())
    for reason, misses in reversed(list(zip(REASONS, missed, strict=True))):
        found = pc.if_else(misses, reason, found)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _longest_caption(rows: pa.Table) -> pa.ChunkedArray:
    """Characters of the longest caption of each row, in any language."""
    lengths = [pc.fill_null(pc.utf8_length(rows[name]), 0).cast(pa.int64()) for name in ("caption_en", "caption_zh")]
    for name in MORE.values():
        if name in rows.column_names and rows[name].null_count < rows.num_rows:
            column = rows[name].combine_chunks()
            longest = np.zeros(rows.num_rows, np.int64)
            characters = pc.fill_null(pc.utf8_length(pc.list_flatten(column)), 0)
            np.maximum.at(longest, pc.list_parent_indices(column).to_numpy(), characters.to_numpy())
            lengths.append(pa.chunked_array([longest]))
    return pc.max_element_wise(*lengths)


def _below(values: pa.ChunkedArray, limit: float | None) -> pa.ChunkedArray:
    return _where(pc.less, values, limit)


def _above(values: pa.ChunkedArray, limit: float | None) -> pa.ChunkedArray:
    return _where(pc.greater, values, limit)


def _where(compare: Any, values: pa.ChunkedArray, limit: float | None) -> pa.ChunkedArray:
    if limit is None or pa.types.is_null(values.type):
        return pa.array(np.zeros(len(values), bool))
    return pc.fill_null(compare(values.cast(pa.float64()), float(limit)), False)
