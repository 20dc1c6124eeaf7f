"""Rows of a dataset version some at a time, for whoever counts them or looks for a few of many."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.card import Split
from pangu.data.table.delta import data_files, located
from pangu.data.table.schema import PARTITION, SCHEMA, with_lacking, with_nulls
from pangu.storage import Home

_ROWS_AT_ONCE = 1 << 16


def row_batches(
    home: Home,
    name: str,
    version: int,
    columns: Sequence[str],
    upscaled: bool | None = None,
    split: Split | None = None,
) -> Iterator[pa.Table]:
    """Columns of a pinned version in the order of its files, as `read_rows` has them but for the order; none for memory to hold.

    Raises:
        UserError: no such dataset or version.
    """
    asked = [*columns, *(["split"] if split and "split" not in columns else [])]
    for partition in (False, True) if upscaled is None else (upscaled,):
        files = data_files(home, name, version, partition)
        filesystem, paths = located(files) if files else (None, [])
        for path in paths:
            with pq.ParquetFile(path, filesystem=filesystem) as source:
                present = [column for column in asked if column in source.schema_arrow.names and column != PARTITION]
                for batch in source.iter_batches(_ROWS_AT_ONCE, columns=present):
                    rows = pa.table(batch)
                    if PARTITION in columns:
                        rows = rows.append_column(
                            SCHEMA.field(PARTITION), pa.array([partition] * rows.num_rows, pa.bool_())
                        )
                    rows = with_nulls(with_lacking(rows, asked))
                    yield (rows if split is None else rows.filter(pc.equal(rows["split"], split))).select(columns)
