"""What a training job is, and the files by which its run folder says so to everyone else.

Owns `job.json` and `rows.parquet` of a run folder.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pangu.config import ROLES, Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.mixture_parts import encoded_parts
from pangu.data.rows.training_rows import Rows
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json

JOB_FILE = "job.json"
ROWS_FILE = "rows.parquet"


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
        table = pa.table(
            {"key": pa.array(list(rows.keys), pa.string()), "bucket": pa.array(rows.preset_n.tolist(), pa.int32())}
        )
        from pangu.data.rows.mixed_rows import MixedRows  # brings torch along, which whoever has rows has loaded

        if isinstance(rows, MixedRows):
            part_n = np.repeat(np.arange(len(rows.names), dtype=np.int32), [share.rows for share in rows.shares])
            table = table.append_column("dataset", pa.DictionaryArray.from_arrays(part_n, list(rows.names)))
        job.run_folder.mkdir(parents=True, exist_ok=True)
        temporary = job.run_folder / f".{ROWS_FILE}.tmp"
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(job.run_folder / ROWS_FILE)
    write_json(job.run_folder / JOB_FILE, job.model_dump(mode="json"))


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
        table = read_rows(home, manifest.dataset, manifest.version, columns=["key", "caption_en", "caption_zh"])
        found = {row.pop("key"): row for row in table.to_pylist() if row["key"] in keys} | found
    return found
