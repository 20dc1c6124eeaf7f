"""The download process of an ingest: started, watched, started again until every shard accounts for every one of its rows."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pangu
from pangu.data.card import Card
from pangu.data.ingest.raw import IMAGE_COLUMN, RawFolder, RowState, ShardRows, account, failures
from pangu.data.ingest.watchdog import supervise
from pangu.data.table.folder_links import for_fsspec
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import write_json

ATTEMPTS = 3
"""How often the download process is started before a shard that stays incomplete fails the stage."""
State = Callable[[], tuple[tuple[int, int], bool]]
Found = Callable[[Mapping[int, RowState]], object]
"""Takes what became of the rows of one shard, once it is whole."""


def download(
    card: Card, raw: RawFolder, origins: frozenset[tuple[str, int]], lock: int | None, report: Reporter, found: Found
) -> None:
    """Run the download process until every shard accounts for every one of its rows.

    origins: private hosts and ports that it may reach. lock: a descriptor that it keeps open, if any. found: takes each shard.

    Raises:
        UserError: a shard stays incomplete.
    """
    expected, deadline = raw.expected_rows(), time.monotonic() + card.limits.total_seconds
    whole: set[int] = set()
    job = _write_job(card, raw, origins)
    ending = "nothing to do"
    for _ in range(ATTEMPTS):
        missing = account_finished(card, raw, expected, whole, found)
        if not missing or ending == "deadline":
            break
        # img2dataset skips the shards that have a stats file; torn ones were discarded, and lost theirs.
        ending = supervise(
            [sys.executable, "-m", "pangu.data.ingest.guarded_download", str(job)],
            log=raw.root / "download.log",
            environment=_environment(),
            state=_progress_of(raw, expected, report),
            stall_seconds=card.limits.stall_seconds,
            deadline=deadline,
            pass_fds=() if lock is None else (lock,),
        )
    missing = account_finished(card, raw, expected, whole, found)
    if missing:
        raise UserError(
            f"Ingest of '{card.name}' stopped ({ending}) with incomplete shards {names(missing)} of {len(expected)}; "
            f"see {raw.root / 'download.log'} and run the same command again to continue."
        )


def names(shards: list[int]) -> str:
    """The first few shards, as their files are named."""
    return ", ".join(f"{shard:05d}" for shard in shards[:5]) + (" ..." if len(shards) > 5 else "")


def account_finished(card: Card, raw: RawFolder, expected: ShardRows, whole: set[int], found: Found) -> list[int]:
    """Hand over the rows of finished shards that are not yet among the `whole` ones, and add these; returns the shards that are
    missing, after discarding torn ones."""
    finished, missing = raw.finished_shards(), []
    for shard in range(len(expected)):
        if shard in whole:
            continue
        states = account(raw, shard, expected[shard], card.limits.max_pixels) if shard in finished else None
        if states is None:
            raw.discard(shard)
            missing.append(shard)
        else:
            found(states)
            whole.add(shard)
    return missing


def _progress_of(raw: RawFolder, expected: ShardRows, report: Reporter) -> State:
    """What the watchdog asks: has anything grown, and is everything there? Reports finished shards on the way."""
    total, started, shards = expected.total, time.monotonic(), len(expected)
    at_start = sum(expected.size(shard) for shard in raw.finished_shards() if shard < shards)
    counted, failed = set[int](), Counter[str]()
    told = -1

    def state() -> tuple[tuple[int, int], bool]:
        nonlocal told
        finished = {shard for shard in raw.finished_shards() if shard < shards}
        done = sum(map(expected.size, finished))
        if done != told:
            for shard in finished - counted:
                failed.update(failures(raw, shard))
            counted.update(finished)
            speed = (done - at_start) / (time.monotonic() - started)
            report(progress(done, total, speed, failed))
            told = done
        written = sum(file.stat().st_size for file in raw.shards.glob("*.parquet"))
        return (done, written), len(finished) >= shards

    return state


def progress(done: int, total: int, speed: float, failed: Counter[str]) -> Progress:
    """So many of the URLs are done, at so many a second, of which some failed for these reasons."""
    facts: dict[str, object] = {"ok": done - failed.total(), "URLs/s": round(speed, 1)}
    if speed > 0:
        facts["ETA s"] = round((total - done) / speed)
    return Progress(stage="ingest", done=done, total=total, unit="URLs", facts=facts | dict(failed.most_common(5)))


def _write_job(card: Card, raw: RawFolder, origins: frozenset[tuple[str, int]]) -> Path:
    limits, path = card.limits, raw.root / "job.json"
    job = limits.model_dump(
        include={"processes", "threads", "retries", "memory_mb", "max_bytes", "max_seconds", "respect_opt_out"}
    )
    plain = RawFolder(for_fsspec(raw.root))
    paths = {"url_table": str(plain.urls), "shards": str(plain.shards), "rows_per_shard": raw.rows_per_shard}
    paths["image_column"] = IMAGE_COLUMN
    write_json(path, {**job, **paths, "private_origins": sorted(origins), "parent_pid": os.getpid()})
    return path


def _environment() -> dict[str, str]:
    """The download process finds this package, and its libraries neither call home nor start idle threads."""
    root = str(Path(pangu.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "disabled"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
