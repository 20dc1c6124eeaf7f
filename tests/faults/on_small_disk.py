"""What happens on a disk that fills: each function is the work of a process of its own, and tells what it saw in a file."""

import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.ingest.raw import ROWS
from pangu.data.prepare.row_plan import plan_rows
from pangu.errors import UserError
from pangu.storage import write_json
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.loop import train_loop
from tests.train.rows import random_rows, small_recipe

MEBIBYTES = 24
"""Room for a handful of checkpoints of the tiny recipe; the ballast leaves room for two and a half."""
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
"""Of unshare(2)."""


def mount(folder: Path) -> None:
    """From here on there is a real small file system at `folder`, which no other process sees."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    assert libc.unshare(NEW_USER | NEW_MOUNTS) == 0, os.strerror(ctypes.get_errno())
    for name, said in (("uid_map", f"0 {user} 1"), ("setgroups", "deny"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(said)
    options = f"size={MEBIBYTES}m".encode()
    assert libc.mount(b"small", os.fsencode(folder), b"tmpfs", 0, options) == 0, os.strerror(ctypes.get_errno())


def train(disk: Path, told: Path) -> None:
    mount(disk)
    ballast, run, said = disk / "ballast", disk / "run", dict[str, Any]()
    train_loop("structure", small_recipe(steps=2), random_rows(), "e", disk / "measure")
    size = sum(file.stat().st_size for file in (disk / "measure" / "step-000002").iterdir())
    shutil.rmtree(disk / "measure")
    ballast.write_bytes(b"0" * (shutil.disk_usage(disk).free - 2 * size - size // 2))
    try:
        train_loop("structure", small_recipe(steps=4), random_rows(), "e", run)
    except UserError as error:
        said["sentence"] = str(error)
    said["left"] = sorted(path.name for path in run.iterdir())
    kept = latest_checkpoint(run)
    assert kept
    said["kept"] = kept[1].step
    ballast.unlink()
    said["resumed"] = train_loop("structure", small_recipe(steps=4), random_rows(), "e", run).resumed_from
    train_loop("structure", small_recipe(steps=4), random_rows(), "e", disk / "whole")
    resumed, whole = latest_checkpoint(run), latest_checkpoint(disk / "whole")
    assert resumed and whole
    said["equal"] = resumed[1].files == whole[1].files
    write_json(told, said)


def shuffle(disk: Path, told: Path) -> None:
    mount(disk)
    rows, words, said = range(40_000), "of which so much is said that it fills a disk, " * 5, dict[str, Any]()
    columns: dict[str, Any] = {"row": rows, "raw_row": rows, "shard": [row // 1000 for row in rows]}
    columns |= {"sha256": [f"{row % 30_000:064x}" for row in rows]}
    columns |= {"caption_en": [f"picture {row}, {words}" for row in rows]}
    columns |= {"reason": [""] * len(rows), "ingest": [""] * len(rows)}
    filled = {field.name: columns.get(field.name, pa.nulls(len(rows))) for field in ROWS}
    with tempfile.TemporaryDirectory() as folder:
        listed, ballast, plan = Path(folder) / "rows.parquet", disk / "ballast", disk / "work" / "plan.parquet"
        pq.write_table(pa.table(filled).cast(ROWS), listed)
        plan.parent.mkdir()
        ballast.write_bytes(b"0" * (shutil.disk_usage(disk).free - (8 << 20)))
        try:
            plan_rows(listed, plan)
        except UserError as error:
            said["sentence"] = str(error)
        said["left"] = sorted(path.name for path in plan.parent.iterdir())
        ballast.unlink()
        said["planned"] = sum(shard.count for shard in plan_rows(listed, plan).shards)
        said["then"] = sorted(path.name for path in plan.parent.iterdir())
    write_json(told, said)
