"""Training jobs on real Ray Train: a killed worker, fewer workers than asked for, and bad input."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pangu.data.encode.stage import encode
from pangu.storage import Home, read_json
from pangu.train.history import read_history
from pangu.train.training_cost import read_spent
from tests.faults.train_on_ray import STEPS
from tests.small_dataset import NAME, small_dataset
from tests.train.rows import small_recipe

pytestmark = pytest.mark.slow

PATIENCE_S = 400
ROOT = Path(__file__).parents[2]


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[Home, str]:
    home = Home(tmp_path)
    return home, encode(NAME, small_dataset(home), small_recipe(), home).encode_id


def start(
    home: Home, encode_id: str, workers: int, least: int, cpus: int, lr_peak: float = 1e-3
) -> subprocess.Popen[str]:
    """The job in a process of its own, with a Ray of its own that has so many CPUs."""
    arguments = [str(home.root), encode_id, "structure", *map(str, (workers, least, cpus, lr_peak))]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.train_on_ray", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment() -> dict[str, str]:
    """Without the addresses of any stack, and without Ray's hello to its makers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def train_workers(process: psutil.Process) -> list[psutil.Process]:
    """The processes of Ray Train's workers below `process`."""
    below = process.children(recursive=True)
    return [one for one in below if one.is_running() and "RayTrainWorker" in " ".join(one.cmdline())]


@pytest.mark.long
def test_with_room_for_one_of_two_workers_and_that_one_killed_the_job_still_ends(encoded: tuple[Home, str]) -> None:
    home, encode_id = encoded
    process = start(home, encode_id, workers=2, least=1, cpus=1)
    run = home.run("structure-2-0.001")
    deadline = time.monotonic() + PATIENCE_S
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (doomed,) = train_workers(psutil.Process(process.pid))
    doomed.kill()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output[-3000:]
    assert read_json(run / "outcome.json")["steps"] == STEPS
    assert len(list((run / "ray").iterdir())) == 2
    assert [line.step for line in read_history(run / "metrics.jsonl")] == list(range(1, STEPS + 1))
    spent = read_spent(run)
    assert spent and spent.workers == 1 and 0 < spent.steps < STEPS


@pytest.mark.long
def test_bad_input_in_one_of_two_workers_stops_the_job_at_once(encoded: tuple[Home, str]) -> None:
    home, encode_id = encoded
    process = start(home, encode_id, workers=2, least=0, cpus=2, lr_peak=1e30)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, output[-3000:]
    assert "pangu: The loss of structure is " in output
    assert len(list((home.run("structure-2-1e+30") / "ray").iterdir())) == 1
