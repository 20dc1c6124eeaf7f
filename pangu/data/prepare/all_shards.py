"""Every row of one ingest, made shard by shard: what is to be made, by whom, and what it says of itself when it is done."""

import hashlib
import time
from functools import partial
from itertools import islice
from pathlib import Path

from pangu.data.card import Card
from pangu.data.ingest.raw import OWN, RawFolder
from pangu.data.prepare.admission import Admitter, make_admitter
from pangu.data.prepare.chat_endpoint import Door
from pangu.data.prepare.make_rows import ShardJob, ShardWorker, made, made_file, originals_of
from pangu.data.prepare.publish import Lost, lost_file
from pangu.data.prepare.row_plan import RowPlan, plan_rows
from pangu.data.prepare.row_sources import Piece, pieces_of_work
from pangu.data.prepare.upscale import upscaler_of
from pangu.data.prepare.work_key import work_folder
from pangu.data.prepare.workers import WorkerSettings, map_unordered
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.diffusion.blur_admission import Estimator
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import Home, read_json, write_json


def make_all_rows(
    card: Card, raw: RawFolder, home: Home, work: str, report: Reporter, execution: WorkerSettings
) -> tuple[list[Piece], AdmissionLevels]:
    """The rows of every shard that an ingest left, but those that an earlier run made; they wait in the folder of the work.

    Also in which noise levels their lowest timesteps are told.

    Raises:
        UserError: a raw shard is gone.
    """
    fill = card.fill_captions
    # Known before anything is made; workers on other machines may have no such environment.
    door = Door.from_environment(1 / execution.workers, home.captions) if fill and fill.server else None
    plan = plan_rows(raw.read_rows(), card.describes)
    jobs, folder = _jobs(raw, plan), work_folder(home, card.name, work)
    folder.mkdir(parents=True, exist_ok=True)
    admitter = _admitter(card, jobs, folder, execution.threads, report)
    make = partial(ShardWorker, card, admitter, folder, execution, door)
    total, done, started = sum(job.rows.num_rows for job in jobs), 0, time.monotonic()
    for number in map_unordered(make, jobs, execution.workers, execution.on_ray):
        done += jobs[number].rows.num_rows
        speed = done / max(time.monotonic() - started, 1e-6)
        facts = {"images/s": round(speed, 1), "ETA s": round((total - done) / speed)}
        report(Progress(stage="prepare", done=done, total=total, unit="images", facts=facts))
    dropped = plan.dropped
    for job in jobs:
        found = made(folder, job.number)
        assert found is not None
        dropped.update(found.dropped)
    # Beside the dataset, because later selections from the same work count from it, too.
    listed = read_json(raw.outcome)
    lost = Lost(listed=listed["listed"], failed=listed["failed"], dropped=dict(dropped))
    write_json(lost_file(home, card.name, work), lost.model_dump())
    pieces = pieces_of_work([made_file(folder, job.number) for job in jobs])
    return pieces, admitter.levels(card.upscale.admission)


def _jobs(raw: RawFolder, plan: RowPlan) -> list[ShardJob]:
    jobs = []
    for number, ((ingest, shard), rows) in enumerate(plan.rows.items()):
        source = raw if ingest == OWN else RawFolder(raw.root.parent / ingest)
        if not source.shard_file(shard).is_file():
            raise UserError(f"The raw shard {source.shard_file(shard)} is gone; run `pangu ingest` again.")
        jobs.append(ShardJob(number, source, shard, rows))
    return jobs


def _admitter(card: Card, jobs: list[ShardJob], folder: Path, threads: int, report: Reporter) -> Admitter:
    """Learnt once per work, whatever order its shards are made in; kept for a run that goes on."""
    settings, file = card.upscale.admission, folder / "admission.json"
    if card.upscale.min_timestep is not None:
        return make_admitter(card, [], upscaler_of(card))
    if not file.is_file():
        shuffled = sorted(jobs, key=lambda job: hashlib.sha256(f"{job.raw.root.name} {job.shard}".encode()).digest())
        originals = list(islice(originals_of(card, shuffled), settings.images))
        learnt = make_admitter(card, originals, upscaler_of(card, threads), report)
        found = learnt.estimator.model_dump() if learnt.estimator else None
        write_json(file, {"estimator": found, "constant": learnt.constant})
    kept = read_json(file)
    estimator = Estimator.model_validate(kept["estimator"]) if kept["estimator"] else None
    return Admitter(estimator, kept["constant"], settings.noise_schedule)
