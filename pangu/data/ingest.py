"""Ingest: from a URL table to raw shards, by img2dataset in a guarded subprocess. Every listed row is accounted for.

Knows nothing of what the images are for.
"""

import fcntl
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pydantic import Field

import pangu
from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.guard import EgressPolicy, Failed, origin_of
from pangu.data.raw import NO_SHARD, RawFolder, RowState, account, write_rows, write_table
from pangu.data.source import content_digest, read_source
from pangu.data.watchdog import supervise
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, read_json, write_json

ATTEMPTS = 3
"""How often the download process is started before a shard that stays incomplete fails the stage."""


class IngestOutcome(Frozen):
    """How many rows were listed, and what became of each: listed = ok + the sum of `failed`."""

    dataset: str
    ingest_id: str
    listed: int
    ok: int
    failed: dict[str, int] = Field(description="Rows by reason")
    seconds: float = 0.0
    already_done: bool = False


def ingest(card: Card, home: Home, report: Reporter = silent) -> IngestOutcome:
    """Download what the card's table lists. The same table again does nothing; an interrupted ingest continues.

    Raises:
        UserError: bad card or table, another ingest of it is running, or a shard that stays incomplete.
    """
    listed = read_source(card, home)
    ingest_id = f"{card.download_digest()[:8]}{content_digest(listed)[:8]}"
    raw = RawFolder(home.raw(card.name, ingest_id), card.limits.rows_per_shard)
    raw.root.mkdir(parents=True, exist_ok=True)
    with only_one(raw.root / "lock", f"ingest of '{card.name}'") as lock:
        if raw.outcome.exists():
            return IngestOutcome(**read_json(raw.outcome)).model_copy(update={"already_done": True})
        started = time.monotonic()
        write_table(listed, raw.listed)
        states = refuse(card, listed)
        _write_urls(raw, listed, states)
        states |= _download(card, raw, lock, report)
        counts = write_rows(raw, listed, states)
        outcome = _outcome(card, ingest_id, listed.num_rows, counts, time.monotonic() - started)
        write_json(raw.outcome, outcome.model_dump(mode="json"))
        return outcome


def _outcome(card: Card, ingest_id: str, listed: int, counts: Counter[str], seconds: float) -> IngestOutcome:
    failed = {reason: counts[reason] for reason in sorted(counts) if reason}
    assert counts[""] + sum(failed.values()) == listed
    return IngestOutcome(
        dataset=card.name, ingest_id=ingest_id, listed=listed, ok=counts[""], failed=failed, seconds=round(seconds, 2)
    )


def private_origins(card: Card, listed: pa.Table) -> frozenset[tuple[str, int]]:
    """The private hosts and ports that downloads may reach: named by the table itself, and its host by the card."""
    allowed, found = {host.lower() for host in card.limits.allow_private_hosts}, set()
    for url in listed["url"].to_pylist() if allowed else ():
        try:
            host, port = origin_of(url)
        except Failed:
            continue
        if host in allowed:
            found.add((host, port))
    return frozenset(found)


def _policy(card: Card, listed: pa.Table) -> EgressPolicy:
    return EgressPolicy(private_origins(card, listed), card.limits.max_bytes, card.limits.max_seconds)


def refuse(card: Card, listed: pa.Table) -> dict[int, RowState]:
    """The rows whose URL fails before anything is resolved or opened, and why."""
    policy, refused = _policy(card, listed), {}
    for row, url in zip(listed["row"].to_pylist(), listed["url"].to_pylist(), strict=True):
        try:
            policy.check_url(url)
        except Failed as error:
            refused[row] = RowState(NO_SHARD, error.reason)
    return refused


def _write_urls(raw: RawFolder, listed: pa.Table, refused: dict[int, RowState]) -> None:
    tried = [row not in refused for row in listed["row"].to_pylist()]
    write_table(listed.select(["row", "url"]).filter(pa.array(tried)), raw.urls)


def _download(card: Card, raw: RawFolder, lock: int, report: Reporter) -> dict[int, RowState]:
    """Run the download process until every shard accounts for every one of its rows."""
    expected, deadline = raw.expected_rows(), time.monotonic() + card.limits.total_seconds
    states: dict[int, RowState] = {}
    job = _write_job(card, raw)
    ending = "nothing to do"
    for _ in range(ATTEMPTS):
        missing = _account_finished(card, raw, expected, states)
        if not missing or ending == "deadline":
            break
        # img2dataset skips the shards that have a stats file; torn ones were discarded, and lost theirs.
        ending = supervise(
            [sys.executable, "-m", "pangu.data.guarded_download", str(job)],
            log=raw.root / "download.log",
            environment=_environment(),
            state=_progress_of(raw, expected, report),
            stall_seconds=card.limits.stall_seconds,
            deadline=deadline,
            pass_fds=(lock,),
        )
    missing = _account_finished(card, raw, expected, states)
    if missing:
        raise UserError(
            f"Ingest of '{card.name}' stopped ({ending}) with incomplete shards {_names(missing)} of {len(expected)}; "
            f"see {raw.root / 'download.log'} and run the same command again to continue."
        )
    return states


def _names(shards: list[int]) -> str:
    return ", ".join(f"{shard:05d}" for shard in shards[:5]) + (" ..." if len(shards) > 5 else "")


def _account_finished(card: Card, raw: RawFolder, expected: list[set[int]], states: dict[int, RowState]) -> list[int]:
    """Add the rows of finished shards to `states`; returns the shards that are missing, after discarding torn ones."""
    finished, missing = raw.finished_shards(), []
    for shard, rows in enumerate(expected):
        if rows <= states.keys():
            continue
        found = account(raw, shard, rows, card.limits.max_pixels) if shard in finished else None
        if found is None:
            raw.discard(shard)
            missing.append(shard)
        else:
            states.update(found)
    return missing


def _progress_of(raw: RawFolder, expected: list[set[int]], report: Reporter):  # type: ignore[no-untyped-def]
    """What the watchdog asks: has anything grown, and is everything there? Reports finished shards on the way."""
    total, started, told = sum(map(len, expected)), time.monotonic(), -1
    at_start = sum(len(expected[shard]) for shard in raw.finished_shards() if shard < len(expected))

    def state() -> tuple[tuple[int, int], bool]:
        nonlocal told
        finished = raw.finished_shards()
        done = sum(len(expected[shard]) for shard in finished if shard < len(expected))
        if done != told:
            speed = (done - at_start) / (time.monotonic() - started)
            report(Progress(stage="ingest", done=done, total=total, unit="URLs", facts={"URLs/s": round(speed, 1)}))
            told = done
        written = sum(file.stat().st_size for file in raw.shards.glob("*.parquet"))
        return (done, written), len(finished) >= len(expected)

    return state


def _write_job(card: Card, raw: RawFolder) -> Path:
    import pyarrow.parquet as pq

    limits, path = card.limits, raw.root / "job.json"
    job = limits.model_dump(include={"processes", "threads", "retries", "memory_mb", "max_bytes", "max_seconds"})
    origins = sorted(private_origins(card, pq.read_table(raw.urls)))
    paths = {"url_table": str(raw.urls), "shards": str(raw.shards), "rows_per_shard": raw.rows_per_shard}
    write_json(path, {**job, **paths, "private_origins": origins, "parent_pid": os.getpid()})
    return path


def _environment() -> dict[str, str]:
    """The download process finds this package, and its libraries neither call home nor start idle threads."""
    root = str(Path(pangu.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "disabled"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@contextmanager
def only_one(lock: Path, what: str, patience_seconds: float = 10.0) -> Iterator[int]:
    """Hold `lock` (released by the system when its last holder ends); yields its descriptor.

    Raises:
        UserError: someone else holds it.
    """
    with lock.open("w") as file:
        until = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(f"Another {what} is running (it holds {lock}); wait for it, or stop it.") from error
                time.sleep(0.1)
        yield file.fileno()
