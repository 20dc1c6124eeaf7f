"""Embeddings of the rows of a shard, in a file beside them: written once, by whoever made the rows, and read by selections."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.prepare.made_rows import MadeRows, embeddings_file

EMBEDDING = "embedding"


class EmbeddingsWriter:
    """Keys, and embeddings as half-precision numbers of length 1; no file where rows have none."""

    def __init__(self, path: Path) -> None:
        self._path, self.size = path, 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "EmbeddingsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self.size = self._path.stat().st_size

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that were made; their images lie elsewhere."""
        if rows and rows[0][EMBEDDING] is not None:
            schema = pa.schema([("key", pa.string()), (EMBEDDING, pa.binary(len(rows[0][EMBEDDING])))])
            self._writer = self._writer or pq.ParquetWriter(self._path, schema, compression="none")
            columns = [[row[name] for row in rows] for name in schema.names]
            self._writer.write_table(pa.table(columns, schema=schema))


def read_embeddings(made: MadeRows, keys: Iterator[pa.Table]) -> Iterator[np.ndarray]:
    """(N, D) float16 of each batch of `made.batches(["key"])`, in the order of its rows; a shard of them in memory.

    keys: those batches.
    """
    files = iter(made.files)
    for batch in keys:
        wanted, found, vectors = batch["key"].to_pylist(), dict[str, int](), list[np.ndarray]()
        while len(found) < len(wanted):
            table = pq.read_table(embeddings_file(next(files)), partitioning=None)
            found |= {key: len(found) + place for place, key in enumerate(table["key"].to_pylist())}
            vectors += [_numbers(chunk) for chunk in table[EMBEDDING].chunks]
        yield np.concatenate(vectors)[[found[key] for key in wanted]]


def _numbers(chunk: pa.FixedSizeBinaryArray) -> np.ndarray:
    width = chunk.type.byte_width
    flat = np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * width : (chunk.offset + len(chunk)) * width]
    return flat.view(np.float16).reshape(len(chunk), width // 2)
