"""`kill -9` at seeded instants of encoding and training; started again, the result is that of an undisturbed run."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pangu.contract import GeneratorContract
from pangu.storage import Home, read_json
from tests import subtests
from tests.faults.train_once import STEPS
from tests.small_dataset import small_dataset

PATIENCE_S = 120


def start(home: Home, version: int, role: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.faults.train_once", str(home.root), str(version), role]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def generator(home: Home, role: str) -> bytes:
    return (home.run(role) / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.long
@subtests.parametrize(("role", "kills"), [("structure", 6), ("texture", 2)])
def test_killed_again_and_again_the_generator_is_the_same_to_the_bit(role: str, kills: int, tmp_path: Path) -> None:
    undisturbed, disturbed = Home(tmp_path / "whole"), Home(tmp_path / "killed")
    version = small_dataset(undisturbed)
    shutil.copytree(undisturbed.root, disturbed.root)
    clock = time.monotonic()
    assert start(undisturbed, version, role).wait(PATIENCE_S) == 0
    seconds = time.monotonic() - clock

    instants = random.Random(f"kill {role}")
    for _ in range(kills):
        process = start(disturbed, version, role)
        try:
            process.wait(seconds * instants.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start(disturbed, version, role).wait(PATIENCE_S) == 0

    assert generator(disturbed, role) == generator(undisturbed, role)
    assert read_json(disturbed.run(role) / "outcome.json")["steps"] == STEPS
    contract = GeneratorContract.load(disturbed.run(role) / "generator")
    assert (contract.role, contract.trained_steps) == (role, STEPS)
    assert contract == GeneratorContract.load(undisturbed.run(role) / "generator")
