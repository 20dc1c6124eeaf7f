"""`pangu samples-seen`: what a checkpoint has seen is what the training drew."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.errors import UserError
from pangu.storage import Home
from pangu.train.job import TrainJob, describe_run, find_job, other_run
from pangu.train.loop import train_loop
from pangu.train.sampler import DeterministicSampler
from pangu.train.samples_seen import as_csv, as_json, seen, times_drawn
from tests.train.rows import random_rows, small_recipe


class Noted:
    """Rows that note which keys are drawn."""

    def __init__(self) -> None:
        self._rows = random_rows(12, buckets=2)
        self.drawn: Counter[str] = Counter()

    def __getattr__(self, name: str):
        return getattr(self._rows, name)

    def __len__(self) -> int:
        return len(self._rows)

    def latents(self, rows):
        if len(rows) > 1:
            self.drawn.update(self._rows.keys[row] for row in rows)
        return self._rows.latents(rows)


def job_in(home: Home, name: str = "run", role: str = "structure") -> TrainJob:
    return TrainJob(
        role=role, run_name=name, encode_id="e", recipe=small_recipe(steps=6), encoded=home.root / "e",
        run_folder=home.run(name),
    )  # fmt: skip


def test_the_rows_of_a_checkpoint_are_those_that_the_training_drew(home: Home) -> None:
    job, rows = job_in(home), Noted()
    describe_run(job, rows)
    train_loop("structure", job.recipe, rows, "e", job.run_folder / "checkpoints")
    found = seen(find_job(home, "run"))
    assert found.step == 6
    assert {row["key"]: row["times"] for row in found.rows()} == rows.drawn
    totals = found.totals()
    assert totals["images"] == 24
    assert totals["epochs"] == 2
    assert sum(bucket["images"] for bucket in totals["buckets"].values()) == 24


@given(rows=st.integers(4, 40), batch=st.integers(1, 4), step=st.integers(0, 30), seed=st.integers(0, 9))
def test_counts_are_those_of_the_ledger_step_by_step(rows: int, batch: int, step: int, seed: int) -> None:
    sampler = DeterministicSampler((0,) * rows, batch, seed)
    expected = Counter(int(row) for earlier in range(step) for row in sampler.rows_of(earlier))
    assert {row: int(times) for row, times in enumerate(times_drawn(sampler, step)) if times} == expected


def test_json_and_csv_say_the_same(home: Home) -> None:
    describe_run(job_in(home), random_rows(buckets=2))
    found = seen(job_in(home), 3)
    listed = json.loads(as_json(found.totals(), found.rows()))["seen"]
    table = list(csv.DictReader(io.StringIO(as_csv(found.totals(), found.rows()))))
    assert [(row["key"], int(row["times"])) for row in table] == [(row["key"], row["times"]) for row in listed]
    buckets = list(csv.DictReader(io.StringIO(as_csv(found.totals(), None))))
    assert sum(int(bucket["images"]) for bucket in buckets) == 12
    assert "seen" not in json.loads(as_json(found.totals(), None))


def test_an_unknown_run_is_answered_with_those_that_are_known(home: Home) -> None:
    for name in ("first", "second"):
        describe_run(job_in(home, name), random_rows())
    with pytest.raises(UserError, match=r"There is no run 'third' in .*; known runs are first, second\."):
        find_job(home, "third")
    with pytest.raises(UserError, match="There is no run"):
        find_job(home, "../runs/first/x")


def test_a_step_that_the_run_does_not_have_is_refused(home: Home) -> None:
    describe_run(job_in(home), random_rows())
    with pytest.raises(UserError, match="has no checkpoint yet; name a step with --step"):
        seen(job_in(home))
    with pytest.raises(UserError, match="--step must lie between 0 and 6, not 7"):
        seen(job_in(home), 7)


def test_the_other_run_of_a_pair_is_found_by_data_and_recipe_whatever_its_name(home: Home, tmp_path: Path) -> None:
    ours = job_in(home, "ours")
    assert other_run(ours) is None
    stranger = job_in(home, "stranger", "texture").model_copy(update={"encode_id": "another"})
    for job in (ours, job_in(home, "theirs", "texture"), stranger):
        describe_run(job, random_rows())
    found = other_run(ours)
    assert found is not None
    assert found.run_name == "theirs"
    assert found.run_folder == home.run("theirs")
