"""Prepare: from raw shards to one dataset version. Make rows with every score, select, write, commit, report.

Killed at any instant, nothing of it is visible or all of it is, and the next run goes on after the last finished shard. Knows
nothing of downloads or training.
"""

import hashlib
import shutil
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pangu.data.card import Card
from pangu.data.ingest.raw import OWN, RawFolder
from pangu.data.ingest.stage import require_finished
from pangu.data.locks import only_preparing
from pangu.data.prepare import make_rows as making
from pangu.data.prepare.admission import Admitter, make_admitter
from pangu.data.prepare.make_rows import CODE_VERSION, ShardJob, ShardWorker, keys_of, work_folder
from pangu.data.prepare.publish import Lost, PrepareOutcome, earlier_outcome, is_whole, land, lost_file
from pangu.data.prepare.row_plan import RowPlan, plan_rows
from pangu.data.prepare.row_sources import Piece, pieces_of_version, pieces_of_work
from pangu.data.prepare.upscale import upscaler_of
from pangu.data.prepare.workers import map_unordered
from pangu.data.table.admission_levels import FACT
from pangu.data.table.versions import VersionEntry, log
from pangu.diffusion.blur_admission import Estimator
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, read_json, write_json

__all__ = ["PrepareOutcome", "WorkerSettings", "prepare"]


@dataclass(frozen=True)
class WorkerSettings:
    """How rows are made: it changes how long that takes, not what comes out.

    threads: ncnn's for one image. workers: processes, or Ray actors. on_ray: in the cluster that RAY_ADDRESS names.
    """

    threads: int = 1
    workers: int = 1
    on_ray: bool = False


def prepare(
    card: Card, ingest_id: str, home: Home, report: Reporter = silent, execution: WorkerSettings = WorkerSettings()
) -> PrepareOutcome:
    """Make a dataset version from a finished ingest; the same card and ingest again add nothing.

    Where an earlier version was made by the same work, only the selection is done again.

    Raises:
        UserError: no such ingest, or nothing usable in it, or nothing at least as large as the texture threshold.
    """
    raw = require_finished(home, card.name, ingest_id)
    key, work = keys_of(card, ingest_id)
    with only_preparing(home, card.name):
        done = earlier_outcome(card, home, key)
        if done is not None:
            # A run that was killed after its commit left it.
            shutil.rmtree(work_folder(home, card.name, work), ignore_errors=True)
            return done
        facts = {"card": card.digest(), "ingest_id": ingest_id, "code_version": CODE_VERSION, "work": work}
        earlier = _same_work(home, card.name, work)
        if earlier is not None:
            facts |= {FACT: earlier.facts[FACT]} if FACT in earlier.facts else {}
            return land(card, home, key, pieces_of_version(home, card.name, earlier), facts, report)
        pieces, admitter = _make_rows(card, raw, home, work, report, execution)
        facts[FACT] = admitter.levels(card.upscale.admission).model_dump_json()
        outcome = land(card, home, key, pieces, facts, report)
        shutil.rmtree(work_folder(home, card.name, work))  # the table and the rejected rows hold all of it now
        return outcome


def _same_work(home: Home, name: str, work: str) -> VersionEntry | None:
    """The newest readable version that the same work made, with all that it rejected."""
    try:
        entries = log(home, name)
    except UserError:
        return None
    same = (entry for entry in entries if entry.readable and entry.facts.get("work") == work)
    return next((entry for entry in same if is_whole(home, name, entry.key, work)), None)


def _jobs(raw: RawFolder, plan: RowPlan) -> list[ShardJob]:
    jobs = []
    for number, ((ingest, shard), rows) in enumerate(plan.rows.items()):
        source = raw if ingest == OWN else RawFolder(raw.root.parent / ingest)
        if not source.shard_file(shard).is_file():
            raise UserError(f"The raw shard {source.shard_file(shard)} is gone; run `pangu ingest` again.")
        jobs.append(ShardJob(number, source, shard, rows))
    return jobs


def _make_rows(
    card: Card, raw: RawFolder, home: Home, work: str, report: Reporter, execution: WorkerSettings
) -> tuple[list[Piece], Admitter]:
    plan = plan_rows(raw.read_rows(), card.describes)
    jobs, folder = _jobs(raw, plan), work_folder(home, card.name, work)
    folder.mkdir(parents=True, exist_ok=True)
    admitter = _admitter(card, jobs, folder, execution.threads, report)
    make = partial(ShardWorker, card, admitter, folder, execution.threads)
    total, done, started = sum(job.rows.num_rows for job in jobs), 0, time.monotonic()
    for number in map_unordered(make, jobs, execution.workers, execution.on_ray):
        done += jobs[number].rows.num_rows
        speed = done / max(time.monotonic() - started, 1e-6)
        facts = {"images/s": round(speed, 1), "ETA s": round((total - done) / speed)}
        report(Progress(stage="prepare", done=done, total=total, unit="images", facts=facts))
    dropped = plan.dropped
    for job in jobs:
        found = making.made(folder, job.number)
        assert found is not None
        dropped.update(found.dropped)
    # Beside the dataset, because later selections from the same work count from it, too.
    listed = read_json(raw.outcome)
    lost = Lost(listed=listed["listed"], failed=listed["failed"], dropped=dict(dropped))
    write_json(lost_file(home, card.name, work), lost.model_dump())
    return pieces_of_work([making.made_file(folder, job.number) for job in jobs]), admitter


def _admitter(card: Card, jobs: list[ShardJob], folder: Path, threads: int, report: Reporter) -> Admitter:
    """Learnt once per work, whatever order its shards are made in; kept for a run that goes on."""
    settings, file = card.upscale.admission, folder / "admission.json"
    if card.upscale.min_timestep is not None:
        return make_admitter(card, [], upscaler_of(card))
    if not file.is_file():
        shuffled = sorted(jobs, key=lambda job: hashlib.sha256(f"{job.raw.root.name} {job.shard}".encode()).digest())
        originals = list(islice(making.originals_of(card, shuffled), settings.images))
        learnt = make_admitter(card, originals, upscaler_of(card, threads), report)
        found = learnt.estimator.model_dump() if learnt.estimator else None
        write_json(file, {"estimator": found, "constant": learnt.constant})
    kept = read_json(file)
    estimator = Estimator.model_validate(kept["estimator"]) if kept["estimator"] else None
    return Admitter(estimator, kept["constant"], settings.noise_schedule)
