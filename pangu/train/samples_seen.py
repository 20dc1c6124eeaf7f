"""Which rows a training run has seen at a step, and how often: the sample sampler, read by people.

A function of the run folder's `job.json` and `rows.parquet` and of the step; reads no weights, and works while the run trains.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.config import REHEARSAL
from pangu.data.encode.mixture_parts import encoded_parts
from pangu.data.rows.local_cache import Strings
from pangu.data.rows.training_rows import Share, rehearsed
from pangu.errors import UserError
from pangu.storage import read_json
from pangu.train.job import ROWS_FILE, TrainJob
from pangu.train.sampler import DeterministicSampler, RowOrder


@dataclass(frozen=True)
class SamplesSeen:
    """Every training row of a run, and how often the first `step` optimizer steps drew it.

    keys: N content hashes; bucket_n, times_n: (N,) integers. Of a mixture, datasets: name -> weight; part_n: (N,) which of them.
    """

    job: TrainJob
    step: int
    keys: Sequence[str]
    bucket_n: np.ndarray
    times_n: np.ndarray
    datasets: Mapping[str, float] = field(default_factory=dict)
    part_n: np.ndarray | None = None

    def totals(self) -> dict[str, Any]:
        """Images, epochs and rows, in all and per bucket; of a mixture also per dataset.

        `epochs` is how often a row was drawn, on average.
        """
        images = int(self.times_n.sum())
        datasets = {
            name: {"weight": weight, "epochs": float(self.times_n[own].mean())}
            | self._count(own)
            | {"buckets": self._buckets(own)}
            for number, (name, weight) in enumerate(self.datasets.items())
            for own in [np.asarray(self.part_n == number, bool)]
        }
        return {
            "run": self.job.run_name,
            "role": self.job.role,
            "step": self.step,
            "images": images,
            "epochs": images / len(self.keys),
            "rows": len(self.keys),
            "rows_seen": int((self.times_n > 0).sum()),
            "buckets": self._buckets(np.ones(len(self.keys), bool)),
        } | ({"datasets": datasets} if datasets else {})

    def _buckets(self, own: np.ndarray) -> dict[str, dict[str, int]]:
        """Counts of each bucket of some rows, (N,) bool."""
        return {
            str(bucket): self._count(own & (self.bucket_n == bucket))
            for bucket in np.unique(self.bucket_n[own]).tolist()
        }

    def _count(self, own: np.ndarray) -> dict[str, int]:
        times = self.times_n[own]
        return {"rows": len(times), "rows_seen": int((times > 0).sum()), "images": int(times.sum())}

    def rows(self, captions: dict[str, dict[str, str | None]] | None = None) -> list[dict[str, Any]]:
        """The rows that were seen, the most frequent first; with both captions of those that `captions` knows."""
        order = sorted(np.flatnonzero(self.times_n).tolist(), key=lambda row: (-self.times_n[row], self.keys[row]))
        empty, names = {"caption_en": None, "caption_zh": None}, list(self.datasets)
        return [
            {"key": self.keys[row], "bucket": int(self.bucket_n[row]), "times": int(self.times_n[row])}
            | ({} if self.part_n is None else {"dataset": names[self.part_n[row]]})
            | ({} if captions is None else captions.get(self.keys[row], empty))
            for row in order
        ]


def seen(job: TrainJob, step: int | None = None) -> SamplesSeen:
    """What the run's first `step` steps have drawn; by default, those behind its newest checkpoint.

    Raises:
        UserError: the run has not begun, has no checkpoint yet, or has fewer steps.
    """
    path, steps = job.run_folder / ROWS_FILE, job.recipe.training(job.role).steps
    newest = newest_checkpoint(job.run_folder / "checkpoints")
    if not path.is_file():
        raise UserError(f"Run '{job.run_name}' has not begun: its folder has no {ROWS_FILE}.")
    if step is None:
        step = None if newest is None else newest[0]
        if step is None:
            raise UserError(f"Run '{job.run_name}' has no checkpoint yet; name a step with --step.")
    if not 0 <= step <= steps:
        raise UserError(
            f"Run '{job.run_name}' has {steps} steps, so --step must lie between 0 and {steps}, not {step}."
        )
    table = pq.read_table(path)
    buckets = table["bucket"].to_numpy()
    datasets, part_n, shares = dict[str, float](), None, tuple[Share, ...]()
    if "dataset" in table.column_names:
        datasets = {part.dataset: part.weight for part in encoded_parts(job.encoded, job.recipe)}
        names = [*datasets, *([REHEARSAL] if job.recipe.rehearsal else [])]
        part_n = np.asarray(pc.index_in(table["dataset"].cast(pa.string()), pa.array(names)))
        counts = np.bincount(part_n, minlength=len(names)).tolist()
        shares = tuple(Share(count, weight) for count, weight in zip(counts, datasets.values(), strict=False))
        if job.recipe.rehearsal:
            shares = (*shares, rehearsed(shares, counts[-1], job.recipe.rehearsal.share))
            datasets[REHEARSAL] = shares[-1].weight
    batch_size = job.recipe.training(job.role).batch_size
    # A run that has no checkpoint yet begins, and so takes the order of now.
    order: RowOrder = "keyed" if newest is None else newest[1]
    sampler = DeterministicSampler(buckets, batch_size, job.recipe.seed, shares, order)
    return SamplesSeen(job, step, Strings(table["key"]), buckets, times_drawn(sampler, step), datasets, part_n)


def times_drawn(sampler: DeterministicSampler, step: int) -> np.ndarray:
    """(N,): how often each row was drawn before optimizer step `step`."""
    times = np.zeros(len(sampler.bucket_of_row), np.int32)
    for drawn in sampler.batches(0, step):
        np.add.at(times, drawn.ravel(), 1)  # a batch may hold a row of a mixture twice
    return times


def newest_checkpoint(checkpoints: Path) -> tuple[int, RowOrder] | None:
    """Step and order of the newest checkpoint by its own word, unverified: the sampler needs no tensors."""
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            state = read_json(path / "state.json")
            return int(state["step"]), state.get("row_order", "shuffled")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def as_json(totals: dict[str, Any], rows: list[dict[str, Any]] | None) -> str:
    """One JSON object: the totals and, unless only they are wanted, a list `seen`."""
    return json.dumps(totals if rows is None else {**totals, "seen": rows}, indent=1, ensure_ascii=False)


def as_csv(totals: dict[str, Any], rows: list[dict[str, Any]] | None) -> str:
    """A table with one line per row or, where only the totals are wanted, per bucket; of a mixture per dataset and bucket."""
    lines = rows
    if lines is None:
        same = {name: totals[name] for name in ("run", "role", "step")}
        parts = {name: one["buckets"] for name, one in totals.get("datasets", {}).items()} or {"": totals["buckets"]}
        lines = [
            same | ({"dataset": name} if name else {}) | {"bucket": bucket} | counts
            for name, buckets in parts.items()
            for bucket, counts in buckets.items()
        ]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(lines[0]) if lines else ["key", "bucket", "times"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue().rstrip("\n")
