"""Small files of an encoded dataset to large ones, before anybody reads it: object stores and file systems want few files.

Parts stay the units of work: whatever is killed goes on after its last whole one. Joined are consecutive parts of a partition, in
groups that follow from their sizes alone, so that the files of a killed run are those of an undisturbed one.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pangu.data.encode.chunks import Chunk
from pangu.data.encode.encoded import MERGED
from pangu.storage import replacing

FILE_BYTES = 128 << 20
"""A large file has at least so many, unless its whole partition has fewer."""


@dataclass
class _Run:
    """Consecutive parts, cut into groups. The last group is held back, because it takes what is left at the end."""

    ready: list[Path] = field(default_factory=list)
    begun: list[Path] = field(default_factory=list)
    size: int = 0

    def add(self, part: Path) -> Iterator[list[Path]]:
        self.begun.append(part)
        self.size += part.stat().st_size
        if self.size >= FILE_BYTES:
            if len(self.ready) > 1:
                yield self.ready
            self.ready, self.begun, self.size = self.begun, [], 0

    def end(self) -> Iterator[list[Path]]:
        last = self.ready + self.begun
        self.ready, self.begun, self.size = [], [], 0
        if len(last) > 1:  # a part that is large by itself, or alone, stays as it is
            yield last


def groups_to_join(chunks: Iterable[Chunk]) -> Iterator[list[Path]]:
    """The parts of each large file that is still to be made, in the order of `chunks`, which are all there.

    What a killed run left is deleted: parts that a large file holds already, and files that were being written.
    """
    runs: dict[Path, _Run] = {}
    for chunk in chunks:
        for view, part in chunk.paths.items():
            if part.parent not in runs:
                for torn in part.parent.rglob(".part-*.tmp"):
                    torn.unlink()
            run = runs.setdefault(part.parent, _Run())
            if view in chunk.merged:
                part.unlink(missing_ok=True)
                yield from run.end()
            else:
                yield from run.add(part)
    for run in runs.values():
        yield from run.end()


def join(parts: list[Path]) -> Path:
    """Make one file of parts, a row group of each, and delete them; returns the file. Again, it does what is left to do."""
    first, last = (part.stem.removeprefix("part-") for part in (parts[0], parts[-1]))
    whole = parts[0].parent / MERGED / f"part-{first}_{last}.parquet"
    if not whole.is_file():
        schema = pq.read_schema(parts[0])
        with replacing(whole) as file, pq.ParquetWriter(file, schema, compression="none") as writer:
            for part in parts:
                writer.write_table(pq.read_table(part).cast(schema))
    _flush(whole.parent)
    for part in parts:
        part.unlink(missing_ok=True)
    return whole


def _flush(folder: Path) -> None:
    """Have the names of a folder's files on the disk, before what they replace goes."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
