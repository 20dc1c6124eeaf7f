"""Ingest: from a card's table to raw shards, by img2dataset in a guarded subprocess. Every listed row is accounted for.

What earlier ingests of the dataset have is not fetched again; failures are tried again only when asked.
"""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.ingest.any_source import source_rows
from pangu.data.ingest.download import download
from pangu.data.ingest.guard import EgressPolicy
from pangu.data.ingest.local_sources import LocalImages, import_images, local_images
from pangu.data.ingest.on_nodes import download_on_nodes
from pangu.data.ingest.raw import (
    NO_SHARD,
    OWN,
    STATE,
    URLS,
    RawFolder,
    RowState,
    StatesFile,
    StatesInOrder,
    states_table,
    write_rows,
    write_urls,
)
from pangu.data.ingest.reuse import (
    all_states,
    asked_for,
    elsewhere,
    first_of_each,
    not_known,
    of_each_url,
    passing_reasons,
    reuse,
    waits,
    without_lost,
    without_reason,
)
from pangu.data.ingest.source import DIGESTED_ROWS, LISTED, Said, digest_of, even_parts
from pangu.data.ingest.table_files import UNREADABLE
from pangu.data.ingest.urls import Failed, asked_host, origin_of, requested_url
from pangu.data.locks import only_one
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.store import storage_errors
from pangu.errors import UserError
from pangu.progress import Reporter, silent
from pangu.storage import Home, read_json, write_json

__all__ = ["IngestOutcome", "ingest", "only_one", "private_origins", "refuse"]


class IngestOutcome(Frozen):
    """How many rows were listed, and what became of each: listed = ok + the sum of `failed`."""

    dataset: str
    ingest_id: str
    listed: int
    ok: int
    failed: dict[str, int] = Field(description="Rows by reason")
    reused: int = Field(0, description="Rows whose bytes or failure an earlier ingest already had")
    seconds: float = 0.0
    already_done: bool = False


@dataclass(frozen=True)
class _Listing:
    """One listing, and its attempts: the first one, and one for each later try.

    listed: every listed row, a file with `DIGESTED_ROWS` in a row group. digest: of its rows.
    """

    card: Card
    home: Home
    listed: Path
    digest: str
    local: LocalImages | None
    on_ray: bool

    @property
    def first_id(self) -> str:
        content = self.digest
        if self.local is not None:
            content = hashlib.sha256(f"{content} {self.local.stamp}".encode()).hexdigest()
        return f"{self.card.download_digest()[:8]}{content[:8]}"

    def rows(self) -> Iterator[pa.Table]:
        """The listed rows, some at a time."""
        with pq.ParquetFile(self.listed) as source:
            yield from (source.read_row_group(group) for group in range(source.num_row_groups))

    @cached_property
    def origins(self) -> frozenset[tuple[str, int]]:
        """The private hosts and ports that downloads may reach."""
        return private_origins(self.card, self.rows())

    def is_refused(self, url: str) -> bool:
        """Whether a URL is not asked for; none is refused where images lie in files."""
        return self.local is None and bool(_refusal(self._policy, url))

    @cached_property
    def _policy(self) -> EgressPolicy:
        return _policy(self.card, self.origins)

    def refused(self, rows: pa.Table) -> pa.Table:
        """States of those of the rows that are not asked for."""
        return states_table({} if self.local is not None else _refused(self._policy, rows))

    def folder(self, attempt: int) -> RawFolder:
        name = self.first_id if attempt == 0 else f"{self.first_id}r{attempt}"
        return RawFolder(self.home.raw(self.card.name, name), self.card.limits.rows_per_shard)

    def finished(self) -> int:
        """The newest finished attempt; -1 if there is none."""
        attempt = -1
        while self.folder(attempt + 1).is_finished:
            attempt += 1
        return attempt

    def earlier(self) -> Iterator[RawFolder]:
        """Finished ingests of other listings under the same limits, the newest first."""
        raws = self.folder(0).root.parent
        same = [path for path in raws.glob(f"{self.first_id[:8]}*") if not path.name.startswith(self.first_id)]
        found = [RawFolder(path) for path in same]
        done = [raw for raw in found if raw.is_finished]
        yield from sorted(done, key=lambda raw: raw.outcome.stat().st_mtime_ns, reverse=True)


def ingest(
    card: Card,
    home: Home,
    report: Reporter = silent,
    retry: bool = False,
    wait: Callable[[float], None] = time.sleep,
    on_ray: bool = False,
) -> IngestOutcome:
    """Download what the card's table lists. The same table again fetches only what is not here any more; an interrupted ingest
    continues.

    Args:
        retry: Try rows again that failed for a reason that may pass, after waiting as long as the reason asks; successes stay.
        wait: Called with the seconds to wait before a further try.
        on_ray: Download on every node of the cluster that RAY_ADDRESS names. Where it is done changes nothing of what comes out;
            an ingest begun in one way may be continued in the other. Images that lie in files are read here.

    Raises:
        UserError: bad card or table, another ingest of it is running, or a shard that stays incomplete.
    """
    with _listed(card, home, on_ray) as listing:
        root = listing.folder(0).root
        root.mkdir(parents=True, exist_ok=True)
        with only_one(root / "lock", f"ingest of '{card.name}'") as lock, storage_errors(str(root)):
            return _continued(listing, lock, report, retry, wait)


@contextmanager
def _listed(card: Card, home: Home, on_ray: bool) -> Iterator[_Listing]:
    """What the card lists, read through once; the file of it is gone afterwards."""
    raws, local, said = home.raw(card.name, ""), local_images(card, home), Said()
    raws.mkdir(parents=True, exist_ok=True)
    with ScratchFolder(".listing-", raws) as folder:
        file = folder / "listed.parquet"
        with storage_errors(str(raws)), pq.ParquetWriter(file, LISTED) as writer:
            for rows in even_parts(source_rows(card, home, local), DIGESTED_ROWS):
                said.hear(rows)
                writer.write_table(rows)
        listing = _Listing(card, home, file, "", local, on_ray)
        yield replace(listing, digest=digest_of(listing.rows(), said))


def _continued(
    listing: _Listing, lock: int, report: Reporter, retry: bool, wait: Callable[[float], None]
) -> IngestOutcome:
    done = listing.finished()
    if done < 0:
        outcome = _attempt(listing, 0, None, lock, report)
    elif lost := listing.folder(done).lost():
        outcome = _fetch_lost(listing, done, lost, lock, report)
    else:
        shutil.rmtree(listing.folder(done).scratch, ignore_errors=True)  # of a run that was killed when all was done
        outcome = IngestOutcome(**read_json(listing.folder(done).outcome)).model_copy(update={"already_done": True})
    return _retry(listing, outcome, lock, report, wait) if retry else outcome


def _attempt(
    listing: _Listing, number: int, states: Iterable[pa.Table] | None, lock: int, report: Reporter
) -> IngestOutcome:
    """Fetch the rows whose state is not known, and write down the state of all.

    states: of rows that are known (schema `STATE`), by ascending row; None: what earlier ingests of other listings say.
    """
    card, started, raw = listing.card, time.monotonic(), listing.folder(number)
    shutil.rmtree(raw.scratch, ignore_errors=True)
    raw.scratch.mkdir(parents=True)
    shutil.copy(listing.listed, raw.listed)
    known, found = raw.scratch / "known.parquet", raw.scratch / "found.parquet"
    reused = _write_known(_first_known(listing, raw.scratch) if states is None else states, known)
    copies = _write_urls(listing, raw, known)
    with StatesFile(found) as file:
        if listing.local is not None:
            import_images(card, raw, listing.local, report, file.found)
        elif listing.on_ray:
            download_on_nodes(card, raw, listing.origins, report, file.found)
        else:
            download(card, raw, listing.origins, lock, report, file.found)
    counts = write_rows(raw, listing.rows(), all_states([known, found], copies, raw.root.name, raw.scratch))
    outcome = _outcome(card, raw.root.name, counts, reused, time.monotonic() - started)
    write_json(raw.outcome, outcome.model_dump(mode="json"))
    shutil.rmtree(raw.scratch, ignore_errors=True)
    return outcome


def _first_known(listing: _Listing, scratch: Path) -> Iterator[pa.Table]:
    """States of rows that are not asked for, or that earlier ingests of other listings know; a refusal is decided anew."""
    before = StatesInOrder(() if listing.local is not None else reuse(listing.rows(), listing.earlier(), scratch))
    for rows in listing.rows():
        known, refused = before.of(rows), listing.refused(rows)
        fresh = known.filter(pc.invert(pc.is_in(known["row"], refused["row"].combine_chunks())))
        yield pa.concat_tables([fresh, refused]).sort_by("row")


def _write_known(states: Iterable[pa.Table], path: Path) -> int:
    """Write down what is known; returns how many rows have their bytes or a failed download."""
    reused = 0
    with pq.ParquetWriter(path, STATE) as writer:
        for some in states:
            writer.write_table(some.cast(STATE))
            tried = pc.or_(pc.not_equal(some["shard"], NO_SHARD), pc.equal(some["reason"], ""))
            reused += pc.sum(tried).as_py() or 0
    return reused


def _write_urls(listing: _Listing, raw: RawFolder, known: Path) -> Path | None:
    """Write down what is asked for: each URL once. Returns a file of the rows that have the bytes of another, if any may."""
    unknown = not_known(listing.rows(), _batches(known))
    if listing.local is not None:
        write_urls(raw, (rows.select(URLS.names) for rows in unknown))
        return None
    first, copies = first_of_each(map(asked_for, unknown), raw.scratch)
    write_urls(raw, first)
    return copies


def _batches(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as source:
        yield from map(pa.table, source.iter_batches())


def _fetch_lost(listing: _Listing, done: int, lost: set[tuple[str, int]], lock: int, report: Reporter) -> IngestOutcome:
    """Fetch rows again whose bytes are gone: in the place where they were, or as a further try if an earlier ingest held some."""
    raw = listing.folder(done)
    if all(ingest in (OWN, raw.root.name) for ingest, _ in lost):
        # Its other shards are found, and not fetched again.
        return _attempt(listing, done, elsewhere(raw), lock, report)
    shutil.rmtree(listing.folder(done + 1).root, ignore_errors=True)
    return _attempt(listing, done + 1, without_lost(raw, lost), lock, report)


def _retry(
    listing: _Listing, outcome: IngestOutcome, lock: int, report: Reporter, wait: Callable[[float], None]
) -> IngestOutcome:
    """Up to `limits.retry_rounds` further tries of each failure that may pass, the ones that need not wait long first."""
    for tried in range(listing.card.limits.retry_rounds):
        reasons = passing_reasons(listing.folder(listing.finished()), listing.is_refused)
        waited = 0.0
        for reason, seconds in sorted(waits(reasons, tried).items(), key=lambda item: item[1]):
            wait(max(0.0, seconds - waited))
            waited = max(waited, seconds)
            number = listing.finished() + 1
            # What a killed try left behind may be of other rows.
            shutil.rmtree(listing.folder(number).root, ignore_errors=True)
            before = listing.folder(number - 1)
            outcome = _attempt(listing, number, without_reason(before, reason, listing.is_refused), lock, report)
    return outcome


def _outcome(card: Card, ingest_id: str, counts: Counter[str], reused: int, seconds: float) -> IngestOutcome:
    failed = {reason: counts[reason] for reason in sorted(counts) if reason}
    listed = counts.total()
    facts: dict[str, Any] = {"reused": reused, "seconds": round(seconds, 2)}
    return IngestOutcome(dataset=card.name, ingest_id=ingest_id, listed=listed, ok=counts[""], failed=failed, **facts)


def private_origins(card: Card, listed: Iterable[pa.Table]) -> frozenset[tuple[str, int]]:
    """The private hosts and ports that downloads may reach: named by the table itself, and its host by the card."""
    allowed, found = {asked_host(host) for host in card.limits.allow_private_hosts}, set()
    for url in (url for rows in listed for url in rows["url"].unique().to_pylist()) if allowed else ():
        try:
            host, port = origin_of(requested_url(url))
        except Failed:
            continue
        if host in allowed:
            found.add((host, port))
    return frozenset(found)


def refuse(card: Card, listed: pa.Table) -> dict[int, RowState]:
    """The rows whose URL fails before anything is resolved or opened, and why."""
    return _refused(_policy(card, private_origins(card, [listed])), listed)


def _policy(card: Card, origins: frozenset[tuple[str, int]]) -> EgressPolicy:
    return EgressPolicy(origins, card.limits.max_bytes, card.limits.max_seconds)


def _refused(policy: EgressPolicy, listed: pa.Table) -> dict[int, RowState]:
    reasons = of_each_url(lambda url: _refusal(policy, url), listed["url"])
    refused = listed.select(["row"]).append_column("reason", reasons).filter(pc.not_equal(reasons, ""))
    rows = zip(*(refused[name].to_pylist() for name in ("row", "reason")), strict=True)
    return {row: RowState(NO_SHARD, reason) for row, reason in rows}


def _refusal(policy: EgressPolicy, url: str) -> str:
    """Why a URL is not asked for; "" if it is."""
    if UNREADABLE in url:
        return "bad_url"
    try:
        policy.check_url(url)
    except Failed as error:
        return error.reason
    return ""


def check_source(card: Card, listed: pa.Table, home: Home) -> dict[int, str]:
    """The rows that are refused before anything is fetched or read, and why."""
    if (local := local_images(card, home)) is not None:
        return dict(local.refused)
    return {row: state.reason for row, state in refuse(card, listed).items()}


def require_finished(home: Home, name: str, ingest_id: str) -> RawFolder:
    """The folder of a finished ingest.

    Raises:
        UserError: there is none of that id.
    """
    raw = RawFolder(home.raw(name, ingest_id))
    if not raw.is_finished:
        raise UserError(f"Dataset '{name}' has no finished ingest '{ingest_id}'; run `pangu ingest` with its card.")
    return raw
