"""Workers that die, and jobs that go on with another number of them: the same rows in the same order, the same result."""

import math
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangu.data.encode.stage import encode
from pangu.planning.calibrate import finished_trainings
from pangu.stack.ports import free_port
from pangu.storage import Home, read_json
from pangu.train.history import HISTORY_FILE, read_history
from pangu.train.job import TrainJob
from pangu.train.sampler import DeterministicSampler
from pangu.train.training_cost import read_spent
from tests.faults.forks import FORKS
from tests.faults.train_worker import main, read_together
from tests.small_dataset import NAME, small_dataset
from tests.train.rows import small_recipe

STEPS = 6
PATIENCE_S = 300
TOLERANCE = 0.01
"""Of what one step moves the weights. Another number of workers adds in another order, which AdamW turns into moves of single
weights that have next to no gradient; one wrong row or one other noise moves all of them."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A job on twelve drawings, whose batches are drawn in turn: a killed worker then dies at a known step."""
    home = Home(tmp_path_factory.mktemp("home"))
    recipe = small_recipe(steps=STEPS)
    recipe = recipe.model_copy(update={"execution": recipe.execution.model_copy(update={"prefetch": 0})})
    encode_id = encode(NAME, small_dataset(home), recipe, home).encode_id
    return TrainJob(
        role="structure",
        run_name="one",
        encode_id=encode_id,
        recipe=recipe,
        encoded=home.encoded(NAME, encode_id),
        run_folder=home.run("one"),
    )


def attempt(job: TrainJob, size: int, killed_at: int = 0, spoilt: int = -1) -> None:
    """Run the job with `size` workers, of which the last is killed at a step; without their peer the others are ended."""
    port = free_port()
    doomed = [killed_at if rank == size - 1 else 0 for rank in range(size)]
    workers = [FORKS.Process(target=main, args=(job, rank, size, port, doomed[rank], spoilt)) for rank in range(size)]
    for worker in workers:
        worker.start()
    try:
        workers[-1].join(PATIENCE_S)
        assert workers[-1].exitcode == (-signal.SIGKILL if killed_at else 0)
    finally:
        for worker in workers:
            worker.join(0.5 if killed_at else PATIENCE_S)
            worker.kill()
            worker.join()


def result(job: TrainJob, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(job.run_folder / "checkpoints" / f"step-{step:06d}" / "averages.safetensors")


def at(job: TrainJob, name: str) -> TrainJob:
    return job.model_copy(update={"run_folder": job.run_folder.with_name(name), "run_name": name})


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return math.sqrt(sum(float((left[name] - right[name]).double().square().sum()) for name in left))


@pytest.fixture(scope="module")
def uninterrupted(job: TrainJob) -> dict[str, torch.Tensor]:
    attempt(job, 1)
    return result(job)


@pytest.fixture(scope="module")
def one_step(job: TrainJob, uninterrupted: dict[str, torch.Tensor]) -> float:
    """How far the last step of the uninterrupted job moved."""
    return distance(uninterrupted, result(job, STEPS - 1))


def test_a_killed_worker_costs_the_attempt_and_nothing_else(
    job: TrainJob, uninterrupted: dict, one_step: float
) -> None:
    killed, whole = at(job, "killed"), at(job, "whole")
    attempt(killed, 2, killed_at=4)
    assert not (killed.run_folder / "outcome.json").exists()
    attempt(killed, 2)
    attempt(whole, 2)
    assert distance(result(killed), result(whole)) == 0
    assert distance(result(whole), uninterrupted) < TOLERANCE * one_step


def test_workers_skip_the_same_steps_whichever_of_them_has_the_bad_row(job: TrainJob) -> None:
    """Only one of two workers sees a loss that is not finite; were it alone to skip, their weights would part."""
    sampler, bad = DeterministicSampler((0,) * 12, 4, job.recipe.seed), 5
    skipped = [step for step in range(STEPS) if bad in sampler.rows_of(step)]
    two = at(job, "spoilt")
    attempt(two, 2, spoilt=bad)
    state = read_json(two.run_folder / "checkpoints" / f"step-{STEPS:06d}" / "state.json")
    lines = read_history(two.run_folder / HISTORY_FILE)
    assert state["skipped_steps"] == len(skipped) > 0
    assert [line.metrics["skipped_steps"] for line in lines] == [
        sum(step <= at_step for step in skipped) for at_step in range(STEPS)
    ]
    assert all(bool(tensor.isfinite().all()) for tensor in result(two).values())
    warnings = read_json(two.run_folder / "outcome.json")["warnings"]
    assert any(f"{len(skipped)} of {STEPS} steps were skipped" in warning for warning in warnings)


@pytest.mark.long
def test_every_worker_counts_in_what_a_training_took_and_plans_learn_from_it(
    job: TrainJob, uninterrupted: dict
) -> None:
    two = at(job, "two")
    attempt(two, 2)
    alone, both = read_spent(job.run_folder), read_spent(two.run_folder)
    assert alone and both
    assert (alone.steps, alone.workers, both.steps, both.workers) == (STEPS, 1, STEPS, 2)
    samples = {one.name: one for one in finished_trainings(Home(job.encoded.parents[3]))}
    assert samples["two"].steps == 2 * samples["one"].steps
    assert samples["two"].operations_per_step == samples["one"].operations_per_step / 2
    assert samples["two"].core_s == both.core_s


@pytest.mark.long
def test_a_job_goes_on_with_other_numbers_of_workers(job: TrainJob, uninterrupted: dict, one_step: float) -> None:
    elastic = at(job, "elastic")
    for size, killed_at in ((1, 3), (2, 3), (4, 0)):
        attempt(elastic, size, killed_at)
    assert distance(result(elastic), uninterrupted) < TOLERANCE * one_step
    sampler = DeterministicSampler((0,) * 12, 4, job.recipe.seed)
    # Each attempt draws from the step of the last checkpoint on; it was killed while it drew its last batch.
    for size, first, last in ((1, 0, 2), (2, 2, 4), (4, 4, STEPS - 1)):
        shares = [(elastic.run_folder / f"drawn-{size}-{rank}.txt").read_text().splitlines() for rank in range(size)]
        drawn = [[int(row) for share in step for row in share.split()] for step in zip(*shares, strict=False)]
        expected = [sampler.rows_of(step).tolist() for step in range(first, last + 1)]
        assert drawn == expected[: len(drawn)]
        assert len(drawn) >= len(expected) - 1


def test_one_worker_reads_for_all_and_what_fails_there_fails_everywhere(tmp_path: Path) -> None:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7), "half": torch.ones(2).half()}
    save_file(tensors, tmp_path / "read")
    port = free_port()
    workers = [FORKS.Process(target=read_together, args=(rank, 2, port, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
    first, second = (read_json(tmp_path / f"noted-{rank}.json") for rank in range(2))
    expected = {name: [str(tensor.dtype), tensor.tolist()] for name, tensor in tensors.items()}
    assert first == [expected, [True], "FileNotFoundError"]
    assert second == [expected, [], "FileNotFoundError"]
