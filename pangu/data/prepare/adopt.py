"""Versions of before held their images themselves: here their rows, and those they rejected, become the rows of the work that
made them, with images in image files, once. Whatever is selected from then on copies no image."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.prepare.made_rows import Lost, Made, MadeRows, lost_file, made, made_file, manifest_file, work_folder
from pangu.data.table.admission_levels import FACT
from pangu.data.table.delta import data_files
from pangu.data.table.placed_images import GROUP_BYTES, placing
from pangu.data.table.rejected import rejected_folder
from pangu.data.table.rows_file import RowsFile
from pangu.data.table.schema import PARTITION, SCHEMA, STORED, with_nulls
from pangu.data.table.store import TableStore, unaddressed
from pangu.data.table.versions import VersionEntry
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json


@dataclass(frozen=True)
class _OldFile:
    """A file of rows with images; `upscaled` is what its path stands for, None where a column says it."""

    address: str
    upscaled: bool | None

    def groups(self) -> Iterator[pa.Table]:
        """Its rows in the types of `SCHEMA`; null where the file is older than a column."""
        with RowsFile(self.address) as source:
            there = source.schema_arrow.names
            for group in range(source.num_row_groups):
                found = source.read_row_group(group, [name for name in SCHEMA.names if name in there])
                columns = []
                for field in SCHEMA:
                    if field.name in there:
                        columns.append(found[field.name].cast(field.type))
                    else:
                        value = self.upscaled if field.name == PARTITION else None
                        columns.append(pa.chunked_array([pa.repeat(pa.scalar(value, field.type), found.num_rows)]))
                yield with_nulls(pa.table(columns, schema=SCHEMA))


def adopt(home: Home, name: str, entry: VersionEntry, work: str) -> MadeRows | None:
    """The rows of a version of before and those it rejected, as rows of its work; None if the version holds no images itself.

    A run that was killed goes on after the last shard.

    Raises:
        UserError: a vacuum, which another home may run, has deleted a file meanwhile.
    """
    shards, folder, store = _old_files(home, name, entry), work_folder(home, name, work), TableStore.of(home, name)
    if "image" not in pq.read_schema(shards[0][0].address).names:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for number, files in enumerate(shards):
        if made(folder, number, store.size) is None:
            try:
                _adopt_shard(store, folder, number, entry.key, files)
            except FileNotFoundError as error:
                raise UserError(
                    f"A vacuum deleted rows while they were read ({error}); run the same command again."
                ) from error
    lost = Lost.model_validate(read_json(lost_file(home, name, work)))
    known = lost.model_copy(update={"shards": len(shards), "admission": entry.facts.get(FACT, "")})
    write_json(lost_file(home, name, work), known.model_dump())
    return MadeRows.of(folder, len(shards))


def _old_files(home: Home, name: str, entry: VersionEntry) -> list[list[_OldFile]]:
    """Files by the shard that they came from."""
    groups: dict[str, list[_OldFile]] = defaultdict(list)
    for upscaled in (False, True):
        for file in data_files(home, name, entry.version, upscaled):
            groups[_number(file)].append(_OldFile(file, upscaled))
    for rejected in sorted(rejected_folder(home, name, entry.key).glob("*.parquet")):
        groups[_number(rejected.name)].append(_OldFile(str(rejected), None))
    return [groups[number] for number in sorted(groups)]


def _number(file: str) -> str:
    return unaddressed(file).rpartition(".")[0].rpartition("-")[2]


def _adopt_shard(store: TableStore, folder: Path, number: int, key: str, files: list[_OldFile]) -> None:
    rows, file = 0, made_file(folder, number)
    with (
        placing(store, folder.name, f"{number:05d}-{key[:8]}") as placer,
        TableStore(str(folder)).parquet_writer(file.name, STORED, compression="zstd") as writer,
    ):
        for group in (group for one in files for group in one.groups()):
            step = max(1, group.num_rows * GROUP_BYTES // max(group.nbytes, 1))
            for start in range(0, group.num_rows, step):
                writer.write_table(placer.place(group.slice(start, step)))
            rows += group.num_rows
    images = {path: store.size(path) or 0 for path in placer.rows}
    manifest = Made(rows=rows, size=file.stat().st_size, dropped={}, images=images)
    write_json(manifest_file(folder, number), manifest.model_dump(mode="json"))
