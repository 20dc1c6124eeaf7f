"""What a training job is, and the files by which its run folder says so to everyone else.

Owns `job.json` and `rows.parquet` of a run folder.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pangu.config import ROLES, Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.mixture_parts import encoded_parts
from pangu.data.rows.training_rows import Rows
from pangu.data.table.row_batches import row_batches
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json

JOB_FILE = "job.json"
ROWS_FILE = "rows.parquet"
ROWS_AT_ONCE = 1 << 16


class TrainJob(Frozen):
    """Everything a worker needs; plain data, so that it travels to any node."""

    role: Role
    run_name: str
    encode_id: str
    recipe: Recipe
    encoded: Path
    run_folder: Path

    @property
    def pair(self) -> str:
        """The same for the runs of all roles of one recipe on one encoded dataset, or one mixture."""
        return f"{self.encode_id[:8]}-{self.recipe.learning_digest()[:8]}"

    def contract(self, manifest: EncodedManifest) -> GeneratorContract:
        """What the generator of this job will have been trained for, and on what."""
        steps = self.recipe.training(self.role).steps
        facts = {"dataset": manifest.dataset, "dataset_version": manifest.version, "trained_steps": steps}
        return manifest.encoders.contract(self.recipe, self.role, **facts)


class TrainOutcome(Frozen):
    """What a training job made."""

    role: Role
    run_name: str
    generator: str
    steps: int
    loss: float
    rows: int
    warnings: tuple[str, ...] = Field((), description="What went wrong without ending the run")
    already_done: bool = False


def describe_run(job: TrainJob, rows: Rows) -> None:
    """Write what the run is, and the keys and buckets of its rows in the sampler's order, unless it is there already.

    Rows of a mixture also say the name of their dataset.
    """
    if not (job.run_folder / ROWS_FILE).is_file():
        job.run_folder.mkdir(parents=True, exist_ok=True)
        temporary = job.run_folder / f".{ROWS_FILE}.tmp"
        with ExitStack() as stack:
            writer = None
            for table in _keys_and_buckets(rows):
                writer = writer or stack.enter_context(pq.ParquetWriter(temporary, table.schema, compression="zstd"))
                writer.write_table(table)
        temporary.replace(job.run_folder / ROWS_FILE)
    write_json(job.run_folder / JOB_FILE, job.model_dump(mode="json"))


def _keys_and_buckets(rows: Rows) -> Iterator[pa.Table]:
    """What `describe_run` says of the rows, some at a time."""
    from pangu.data.rows.mixed_rows import MixedRows  # brings torch along, which whoever has rows has loaded

    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = range(start, min(start + ROWS_AT_ONCE, len(rows)))
        bucket_n = np.asarray(rows.preset_n[start : some.stop], np.int32)
        columns: dict[str, Any] = {"key": pa.array(list(rows.keys[start : some.stop]), pa.string()), "bucket": bucket_n}
        if isinstance(rows, MixedRows):
            part_n = pa.array(rows.part_of(some), pa.int32())
            columns["dataset"] = pa.DictionaryArray.from_arrays(part_n, list(rows.names))
        yield pa.table(columns)


def read_job(run_folder: Path) -> TrainJob | None:
    """The job of a run folder, or None if the folder does not say."""
    try:
        return TrainJob.model_validate(read_json(run_folder / JOB_FILE))
    except (OSError, json.JSONDecodeError, ValidationError):
        return None


def find_job(home: Home, run_name: str) -> TrainJob:
    """The job that the run `run_name` is or was.

    Raises:
        UserError: there is no such run; the sentence names those that there are.
    """
    runs = home.run("x").parent
    folder = home.run(run_name)
    job = read_job(folder) if folder.parent == runs else None
    if job is None:
        known = sorted(path.parent.name for path in runs.glob(f"*/{JOB_FILE}"))
        raise UserError(f"There is no run '{run_name}' in {runs}; known runs are {', '.join(known) or 'none'}.")
    return job


def other_run(job: TrainJob) -> TrainJob | None:
    """The newest run of the other half of the pair: same recipe, same encoded dataset; None while it has not begun, and where
    more experts take turns.
    """
    if job.role not in ROLES or job.recipe.further_boundaries:
        return None
    found = []
    for path in job.run_folder.parent.glob(f"*/{JOB_FILE}"):
        other = read_job(path.parent)
        if other is not None and other.role in ROLES and other.role != job.role and other.pair == job.pair:
            found.append((path.stat().st_mtime, other.model_copy(update={"run_folder": path.parent})))
    return max(found, key=lambda one: one[0])[1] if found else None


def captions_of(job: TrainJob, keys: set[str]) -> dict[str, dict[str, str | None]]:
    """`caption_en` and `caption_zh` of the rows with these keys, from the dataset versions that the run was encoded from.

    Of an image that several datasets have, those of the one that comes first.
    """
    home, found = Home(job.encoded.parents[3]), dict[str, dict[str, str | None]]()
    for part in encoded_parts(job.encoded, job.recipe):
        manifest = EncodedManifest.load(part.folder)
        wanted, own = pa.array(sorted(keys), pa.string()), dict[str, dict[str, str | None]]()
        for rows in row_batches(home, manifest.dataset, manifest.version, ["key", "caption_en", "caption_zh"]):
            own |= {row.pop("key"): row for row in rows.filter(pc.is_in(rows["key"], wanted)).to_pylist()}
        found = own | found
    return found
