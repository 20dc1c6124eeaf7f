"""A disk that fills while a checkpoint is written or rows are divided: one sentence, what was whole stays, and it goes on."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pangu.storage import read_json
from tests.faults import on_small_disk
from tests.faults.forks import FORKS

PATIENCE_S = 600


def told_by(work: Callable[[Path, Path], None], folder: Path) -> dict[str, Any]:
    """What a function of `on_small_disk` saw."""
    disk, told = folder / "disk", folder / "told.json"
    disk.mkdir()
    process = FORKS.Process(target=work, args=(disk, told))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    assert not list(disk.iterdir()), "nobody else sees that disk"
    return read_json(told)


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> None:
    try:
        tried = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("util-linux's unshare is not installed")
    if tried.returncode:
        pytest.skip("this system lets nobody mount a small disk of his own")


@pytest.mark.long
def test_a_disk_that_fills_while_rows_are_divided_is_one_sentence_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    said = told_by(on_small_disk.shuffle, tmp_path)
    assert said["sentence"].endswith("is full; make room and run the same command again.")
    assert said["left"] in ([], ["plan.tmp"])
    assert (said["planned"], said["then"]) == (30_000, ["plan.parquet"])


def test_a_full_disk_is_one_sentence_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    said = told_by(on_small_disk.train, tmp_path)
    assert said["sentence"].startswith("No space is left for the checkpoint of step 3 in ")
    assert "step 2 is kept" in said["sentence"]
    assert said["left"] == ["step-000001", "step-000002"]
    assert (said["kept"], said["resumed"], said["equal"]) == (2, 2, True)
