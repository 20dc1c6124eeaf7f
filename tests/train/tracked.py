"""A job with a history and a tracker, for tests that need no training."""

from pathlib import Path

from pangu.train.history import History
from pangu.train.job import TrainJob
from pangu.train.mlflow_run import Tracker, flatten, system_facts, tags_of
from pangu.train.world import World
from tests.train.rows import small_recipe


def tracked_job(tmp_path: Path, role: str = "structure", encode_id: str = "e") -> TrainJob:
    name = f"{role}-{tmp_path.name}"
    return TrainJob(
        role=role, run_name=name, encode_id=encode_id, recipe=small_recipe(), encoded=tmp_path / "e",
        run_folder=tmp_path / name,
    )  # fmt: skip


def start(job: TrainJob) -> tuple[Tracker, History]:
    history = History(job.run_folder / "metrics.jsonl")
    tags = tags_of(job, "small", 3) | system_facts(World())
    return Tracker(history.path, tags, flatten(job.recipe.model_dump(mode="json"))), history


def write(tracker: Tracker, history: History, steps: range) -> None:
    for step in steps:
        history.add(step, {"loss": 1 / step, "loss/t0-124": 2.0, "time/data": 0.5})
        tracker.wake()
