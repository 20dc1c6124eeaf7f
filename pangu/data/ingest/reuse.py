"""What earlier ingests of a dataset already have, and which failures are worth another try. Pure bookkeeping."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from pangu.data.ingest.raw import NO_SHARD, OWN, RawFolder, RowState
from pangu.data.ingest.urls import requested_or_same

UNASKED = frozenset({"missing_url", "bad_url", "refused_scheme"})
"""What is told from a URL alone, so that there is no download to save."""
BACKOFF_SECONDS: Mapping[str, float] = {
    "bad_url": 0,  # of an earlier version, where this one asks for it
    "connection_lost": 5,
    "incomplete": 5,
    "bad_response": 15,
    "timeout": 30,
    "unresolved_host": 60,
    "http_408": 15,
    "http_429": 120,
    "http_500": 30,
    "http_502": 30,
    "http_503": 60,
    "http_504": 60,
}
"""How long to wait before the first further try, doubled for each one after it. Any other failure stays what it is:
the server has said no, or what it sends is no image."""


def reuse(listed: pa.Table, earlier: Iterable[RawFolder]) -> dict[int, RowState]:
    """The state of every listed row whose URL, as it is asked for, an earlier ingest knows: the first one that has its bytes, or
    else its failure.

    earlier: finished ingests of the same dataset under the same limits, the newest first.
    """
    urls = listed["url"].to_pylist()
    asked = {url: requested_or_same(url) for url in urls}
    wanted = set(asked.values())
    known: dict[str, RowState] = {}
    for raw in earlier:
        lost = raw.lost()
        for row in raw.each_row():
            if row["row"] in lost or row["reason"] in UNASKED:
                continue
            url = asked.get(row["url"]) or requested_or_same(row["url"])
            before = known.get(url)
            if url in wanted and (before is None or (before.reason and not row["reason"])):
                ingest = raw.root.name if row["ingest"] == OWN else row["ingest"]
                known[url] = RowState(row["shard"], row["reason"], row["sha256"], ingest, row["raw_row"])
    pairs = zip(listed["row"].to_pylist(), urls, strict=True)
    return {row: known[asked[url]] for row, url in pairs if asked[url] in known}


def carried(raw: RawFolder) -> dict[int, RowState]:
    """Every row of a finished ingest, as a later attempt at the same listing refers to it."""
    states = {}
    for row in raw.each_row():
        state = RowState(row["shard"], row["reason"], row["sha256"], row["ingest"], row["raw_row"])
        if state.ingest == OWN and state.shard != NO_SHARD:
            state = replace(state, ingest=raw.root.name)
        states[row["row"]] = state
    return states


def elsewhere(raw: RawFolder) -> dict[int, RowState]:
    """The rows of a finished ingest of which its own shards say nothing: earlier ingests hold them, or their URL was refused."""
    return {
        row["row"]: RowState(row["shard"], row["reason"], row["sha256"], row["ingest"], row["raw_row"])
        for row in raw.each_row()
        if row["ingest"] != OWN or row["shard"] == NO_SHARD
    }


def waits(states: Mapping[int, RowState], tried: int) -> dict[str, float]:
    """Seconds to wait before rows of each reason are tried again after `tried` further tries; hopeless reasons are left out."""
    reasons = Counter(state.reason for state in states.values())
    return {reason: BACKOFF_SECONDS[reason] * 2**tried for reason in reasons if reason in BACKOFF_SECONDS}
