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
from pangu.data.prepare.made_rows import Lost, MadeRows, lost_file, made, work_folder
from pangu.data.prepare.make_rows import ShardJob, ShardWorker, originals_of
from pangu.data.prepare.row_plan import RowPlan, plan_rows
from pangu.data.prepare.upscale import upscaler_of
from pangu.data.prepare.workers import WorkerSettings, map_unordered
from pangu.data.table.store import TableStore
from pangu.diffusion.blur_admission import Estimator
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import Home, read_json, write_json


def make_all_rows(
    card: Card, raw: RawFolder, home: Home, work: str, report: Reporter, execution: WorkerSettings
) -> MadeRows:
    """The rows of every shard that an ingest left, but those that an earlier run made; they stay in the folder of the work.

    Raises:
        UserError: a raw shard is gone.
    """
    fill = card.fill_captions
    # Known before anything is made; workers on other machines may have no such environment.
    door = Door.from_environment(1 / execution.workers, home.captions) if fill and fill.server else None
    folder, store = work_folder(home, card.name, work), TableStore.of(home, card.name)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_rows(raw.rows, folder / "plan.parquet", card.describes)
    jobs = _jobs(raw, plan)
    admitter = _admitter(card, jobs, folder, execution.threads, report)
    make = partial(ShardWorker, card, admitter, folder, store, execution, door)
    total, done, started = sum(job.planned.count for job in jobs), 0, time.monotonic()
    for number in map_unordered(make, jobs, execution.workers, execution.on_ray):
        done += jobs[number].planned.count
        speed = done / max(time.monotonic() - started, 1e-6)
        facts = {"images/s": round(speed, 1), "ETA s": round((total - done) / speed)}
        report(Progress(stage="prepare", done=done, total=total, unit="images", facts=facts))
    dropped = plan.dropped
    for job in jobs:
        found = made(folder, job.number, store.size)
        assert found is not None
        dropped.update(found.dropped)
    # Beside the dataset, because later selections from the same work count from it, too.
    listed = read_json(raw.outcome)
    levels = admitter.levels(card.upscale.admission).model_dump_json()
    lost = Lost(
        listed=listed["listed"], failed=listed["failed"], dropped=dict(dropped), shards=len(jobs), admission=levels
    )
    write_json(lost_file(home, card.name, work), lost.model_dump())
    return MadeRows.of(folder, len(jobs))


def _jobs(raw: RawFolder, plan: RowPlan) -> list[ShardJob]:
    jobs = []
    for number, planned in enumerate(plan.shards):
        source = raw if planned.ingest == OWN else RawFolder(raw.root.parent / planned.ingest)
        if not source.shard_file(planned.shard).is_file():
            raise UserError(f"The raw shard {source.shard_file(planned.shard)} is gone; run `pangu ingest` again.")
        jobs.append(ShardJob(number, source, planned))
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
