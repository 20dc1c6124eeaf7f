"""Ingest: from a card's table to raw shards, by img2dataset in a guarded subprocess. Every listed row is accounted for.

What earlier ingests of the dataset have is not fetched again; failures are tried again only when asked.
"""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.download import download
from pangu.data.ingest.guard import EgressPolicy
from pangu.data.ingest.local_sources import LocalImages, import_images, local_images
from pangu.data.ingest.on_nodes import download_on_nodes
from pangu.data.ingest.raw import NO_SHARD, RawFolder, RowState, write_rows, write_table
from pangu.data.ingest.reuse import carried, elsewhere, reuse, waits
from pangu.data.ingest.source import content_digest
from pangu.data.ingest.table_files import UNREADABLE
from pangu.data.ingest.urls import Failed, asked_host, origin_of, requested_or_same, requested_url
from pangu.data.locks import only_one
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
    """One listing, and its attempts: the first one, and one for each later try."""

    card: Card
    home: Home
    listed: pa.Table
    local: LocalImages | None
    on_ray: bool

    @property
    def first_id(self) -> str:
        content = content_digest(self.listed)
        if self.local is not None:
            content = hashlib.sha256(f"{content} {self.local.stamp}".encode()).hexdigest()
        return f"{self.card.download_digest()[:8]}{content[:8]}"

    def folder(self, attempt: int) -> RawFolder:
        name = self.first_id if attempt == 0 else f"{self.first_id}r{attempt}"
        return RawFolder(self.home.raw(self.card.name, name), self.card.limits.rows_per_shard)

    def refused(self) -> dict[int, RowState]:
        """The rows that are not asked for; none where images lie in files."""
        return refuse(self.card, self.listed) if self.local is None else {}

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
    listing = _Listing(card, home, read_source(card, home), local_images(card, home), on_ray)
    root = listing.folder(0).root
    root.mkdir(parents=True, exist_ok=True)
    with only_one(root / "lock", f"ingest of '{card.name}'") as lock:
        done = listing.finished()
        if done < 0:
            known = {} if listing.local else reuse(listing.listed, listing.earlier())
            outcome = _attempt(listing, 0, known | listing.refused(), lock, report)
        elif lost := listing.folder(done).lost():
            outcome = _fetch_lost(listing, done, lost, lock, report)
        else:
            outcome = IngestOutcome(**read_json(listing.folder(done).outcome)).model_copy(update={"already_done": True})
        return _retry(listing, outcome, lock, report, wait) if retry else outcome


def _attempt(listing: _Listing, number: int, known: dict[int, RowState], lock: int, report: Reporter) -> IngestOutcome:
    """Fetch the rows whose state is not known, and write down the state of all."""
    card, listed, started = listing.card, listing.listed, time.monotonic()
    raw = listing.folder(number)
    raw.root.mkdir(parents=True, exist_ok=True)
    write_table(listed, raw.listed)
    tried = [row not in known for row in listed["row"].to_pylist()]
    urls = listed.select(["row", "url"]).filter(pa.array(tried, pa.bool_()))
    if listing.local is None:
        urls = urls.set_column(1, "url", pa.array(map(requested_or_same, urls["url"].to_pylist()), pa.string()))
    write_table(urls, raw.urls)
    if listing.local is not None:
        states = import_images(card, raw, listing.local, report)
    elif listing.on_ray:
        states = download_on_nodes(card, raw, private_origins(card, listed), report)
    else:
        states = download(card, raw, private_origins(card, listed), lock, report)
    counts = write_rows(raw, listed, known | states)
    reused = sum(state.shard != NO_SHARD or not state.reason for state in known.values())
    outcome = _outcome(card, raw.root.name, listed.num_rows, counts, reused, time.monotonic() - started)
    write_json(raw.outcome, outcome.model_dump(mode="json"))
    return outcome


def _fetch_lost(listing: _Listing, done: int, lost: set[int], lock: int, report: Reporter) -> IngestOutcome:
    """Fetch rows again whose bytes are gone: in the place where they were, or as a further try if an earlier ingest held some."""
    known = elsewhere(listing.folder(done))
    if not lost & known.keys():
        # Its other shards are found, and not fetched again.
        return _attempt(listing, done, known, lock, report)
    states = carried(listing.folder(done))
    shutil.rmtree(listing.folder(done + 1).root, ignore_errors=True)
    return _attempt(listing, done + 1, {row: state for row, state in states.items() if row not in lost}, lock, report)


def _retry(
    listing: _Listing, outcome: IngestOutcome, lock: int, report: Reporter, wait: Callable[[float], None]
) -> IngestOutcome:
    """Up to `limits.retry_rounds` further tries of each failure that may pass, the ones that need not wait long first."""
    refused = listing.refused()
    for tried in range(listing.card.limits.retry_rounds):
        before = carried(listing.folder(listing.finished()))
        states = {row: state for row, state in before.items() if row not in refused}
        waited = 0.0
        for reason, seconds in sorted(waits(states, tried).items(), key=lambda item: item[1]):
            wait(max(0.0, seconds - waited))
            waited = max(waited, seconds)
            number = listing.finished() + 1
            # What a killed try left behind may be of other rows.
            shutil.rmtree(listing.folder(number).root, ignore_errors=True)
            states = carried(listing.folder(number - 1))
            known = {row: state for row, state in states.items() if state.reason != reason or row in refused}
            outcome = _attempt(listing, number, known, lock, report)
    return outcome


def _outcome(
    card: Card, ingest_id: str, listed: int, counts: Counter[str], reused: int, seconds: float
) -> IngestOutcome:
    failed = {reason: counts[reason] for reason in sorted(counts) if reason}
    assert counts[""] + sum(failed.values()) == listed
    facts: dict[str, Any] = {"reused": reused, "seconds": round(seconds, 2)}
    return IngestOutcome(dataset=card.name, ingest_id=ingest_id, listed=listed, ok=counts[""], failed=failed, **facts)


def private_origins(card: Card, listed: pa.Table) -> frozenset[tuple[str, int]]:
    """The private hosts and ports that downloads may reach: named by the table itself, and its host by the card."""
    allowed, found = {asked_host(host) for host in card.limits.allow_private_hosts}, set()
    for url in listed["url"].to_pylist() if allowed else ():
        try:
            host, port = origin_of(requested_url(url))
        except Failed:
            continue
        if host in allowed:
            found.add((host, port))
    return frozenset(found)


def refuse(card: Card, listed: pa.Table) -> dict[int, RowState]:
    """The rows whose URL fails before anything is resolved or opened, and why."""
    policy = EgressPolicy(private_origins(card, listed), card.limits.max_bytes, card.limits.max_seconds)
    refused = {}
    for row, url in zip(listed["row"].to_pylist(), listed["url"].to_pylist(), strict=True):
        try:
            if UNREADABLE in url:
                raise Failed("bad_url")
            policy.check_url(url)
        except Failed as error:
            refused[row] = RowState(NO_SHARD, error.reason)
    return refused


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
