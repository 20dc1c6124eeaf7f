"""The rows that one piece of work made: every row, whatever a selection keeps, in files that are written once beside the table.

Their images lie in image files of the table's folder, named by the same work. A version is a selection from them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pangu.config import Frozen
from pangu.data.table.placed_images import FOLDER
from pangu.data.table.rejected import works_folder
from pangu.data.table.store import TableStore
from pangu.data.table.version_files import WAITING_ROWS
from pangu.storage import Home, read_json


class Made(Frozen):
    """The manifest of one finished shard.

    images: bytes of each file of its images. embeddings: bytes of the file of its embeddings, 0 where it has none.
    """

    rows: int
    size: int
    dropped: dict[str, int]
    images: dict[str, int]
    embeddings: int = 0


class Lost(Frozen):
    """What became of listed rows before there were rows to select from; every selection from the same work counts from it.

    shards: how many the work has. admission: in which noise levels lowest timesteps are told, as JSON; "" for work of before.
    """

    listed: int
    failed: dict[str, int]
    dropped: dict[str, int]
    shards: int = 0
    admission: str = ""


@dataclass(frozen=True)
class MadeRows:
    """Files of rows (schema `STORED`), in the order in which they are read."""

    files: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path, shards: int) -> "MadeRows":
        return cls(tuple(made_file(folder, number) for number in range(shards)))

    def batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """All rows, whole shards at a time; the same however often it is asked."""
        waiting: list[pa.Table] = []
        for file in self.files:
            waiting.append(pq.read_table(file, columns=columns, partitioning=None))
            if sum(rows.num_rows for rows in waiting) >= WAITING_ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
        if any(rows.num_rows for rows in waiting):
            yield pa.concat_tables(waiting)


def work_folder(home: Home, name: str, work: str) -> Path:
    """Where the rows of one piece of work lie."""
    return works_folder(home, name) / work


def lost_file(home: Home, name: str, work: str) -> Path:
    """Where `Lost` of one piece of work is kept; written when all of its rows are made."""
    return work_folder(home, name, work).with_suffix(".json")


def made_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def embeddings_file(made: Path) -> Path:
    """Beside the file of a shard's rows, if their card asks for embeddings."""
    return made.with_suffix(".embeddings")


def manifest_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def made(folder: Path, number: int, size_of: Callable[[str], int | None]) -> Made | None:
    """The finished shard, if its file is still whole, and those of its images.

    size_of: bytes of a file of the table's folder; None if it is not there.
    """
    manifest, file = manifest_file(folder, number), made_file(folder, number)
    if not manifest.is_file():
        return None
    try:
        found = Made.model_validate(read_json(manifest))
    except ValidationError:  # of code of before, whose rows held their images
        return None
    beside = embeddings_file(file)
    whole = file.is_file() and file.stat().st_size == found.size
    whole = whole and (not found.embeddings or (beside.is_file() and beside.stat().st_size == found.embeddings))
    return found if whole and all(size_of(path) == size for path, size in found.images.items()) else None


def whole_work(home: Home, name: str, work: str) -> MadeRows | None:
    """All rows of a finished piece of work; None if it is not all in this home, or not with all of its images."""
    folder, file = work_folder(home, name, work), lost_file(home, name, work)
    if not file.is_file():
        return None
    shards = Lost.model_validate(read_json(file)).shards
    listed = TableStore.of(home, name).files_in(f"{FOLDER}/{work}")
    sizes = {found.path[found.path.rindex(f"/{FOLDER}/") + 1 :]: found.size for found in listed}
    if not shards or any(made(folder, number, sizes.get) is None for number in range(shards)):
        return None
    return MadeRows.of(folder, shards)
