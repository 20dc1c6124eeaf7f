"""A disk that fills while a checkpoint is written or rows are divided: one sentence, what was whole stays, and it goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600
MEBIBYTES = 24
"""Room for a handful of checkpoints of the tiny recipe; the ballast leaves room for two and a half."""


def inside_small_disk(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a real small file system at `folder`, which nobody else sees."""
    mount = f"mount -t tmpfs -o size={MEBIBYTES}m small {folder} && exec {sys.executable} - {folder}"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        input=script, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> None:
    try:
        tried = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("util-linux's unshare is not installed")
    if tried.returncode:
        pytest.skip("this system lets nobody mount a small disk of his own")


SCRIPT = """
import shutil
import sys
from pathlib import Path
from pangu.errors import UserError
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.loop import train_loop
from tests.train.rows import random_rows, small_recipe

disk = Path(sys.argv[1])
ballast, run = disk / "ballast", disk / "run"
first = train_loop("structure", small_recipe(steps=2), random_rows(), "e", disk / "measure")
size = sum(file.stat().st_size for file in (disk / "measure" / "step-000002").iterdir())
shutil.rmtree(disk / "measure")
room = shutil.disk_usage(disk).free
ballast.write_bytes(b"0" * (room - 2 * size - size // 2))
try:
    train_loop("structure", small_recipe(steps=4), random_rows(), "e", run)
except UserError as error:
    print("SENTENCE", error)
print("LEFT", *sorted(path.name for path in run.iterdir()))
kept = latest_checkpoint(run)
print("KEPT", kept[1].step)
ballast.unlink()
resumed = train_loop("structure", small_recipe(steps=4), random_rows(), "e", run)
print("RESUMED", resumed.resumed_from)
whole = Path(sys.argv[1]) / "whole"
train_loop("structure", small_recipe(steps=4), random_rows(), "e", whole)
print("EQUAL", latest_checkpoint(run)[1].files == latest_checkpoint(whole)[1].files)
"""


SHUFFLE = """
import shutil
import sys
import tempfile
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from pangu.data.ingest.raw import ROWS
from pangu.data.prepare.row_plan import plan_rows
from pangu.errors import UserError

disk, rows, words = Path(sys.argv[1]), range(40_000), "of which so much is said that it fills a disk, " * 5
columns = {"row": rows, "raw_row": rows, "shard": [row // 1000 for row in rows]}
columns |= {"sha256": [f"{row % 30_000:064x}" for row in rows]}
columns |= {"caption_en": [f"picture {row}, {words}" for row in rows], "reason": [""] * len(rows), "ingest": [""] * len(rows)}
table = pa.table({field.name: columns.get(field.name, pa.nulls(len(rows))) for field in ROWS}).cast(ROWS)
with tempfile.TemporaryDirectory() as folder:
    listed, ballast, plan = Path(folder) / "rows.parquet", disk / "ballast", disk / "work" / "plan.parquet"
    pq.write_table(table, listed)
    plan.parent.mkdir()
    ballast.write_bytes(b"0" * (shutil.disk_usage(disk).free - (8 << 20)))
    try:
        plan_rows(listed, plan)
    except UserError as error:
        print("SENTENCE", error)
    print("LEFT", *sorted(path.name for path in plan.parent.iterdir()))
    ballast.unlink()
    print("PLANNED", sum(shard.count for shard in plan_rows(listed, plan).shards))
    print("THEN", *sorted(path.name for path in plan.parent.iterdir()))
"""


def test_a_disk_that_fills_while_rows_are_divided_is_one_sentence_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    done = inside_small_disk(tmp_path, SHUFFLE)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in (f"{line} " for line in done.stdout.splitlines()))
    assert said["SENTENCE"].endswith("is full; make room and run the same command again. ")
    assert said["LEFT"].strip() in ("", "plan.tmp")
    assert (said["PLANNED"].strip(), said["THEN"].strip()) == ("30000", "plan.parquet")


def test_a_full_disk_is_one_sentence_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    done = inside_small_disk(tmp_path, SCRIPT)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["SENTENCE"].startswith("No space is left for the checkpoint of step 3 in ")
    assert "step 2 is kept" in said["SENTENCE"]
    assert said["LEFT"] == "step-000001 step-000002"
    assert (said["KEPT"], said["RESUMED"], said["EQUAL"]) == ("2", "2", "True")
