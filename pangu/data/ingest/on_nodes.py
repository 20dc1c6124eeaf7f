"""The downloads of an ingest on every node of a Ray cluster: one guarded process a node at a time, over whole shards.

A node fetches into a folder of its own in the shared home; the driver alone moves finished shards to their place. So a node
that was given up, and still goes on behind a cut, tears nothing.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pangu.data.card import Card
from pangu.data.ingest.download import Found, account_finished, download, names, progress
from pangu.data.ingest.raw import RawFolder, RowState, ShardRows, failures, states_table, write_table, write_urls
from pangu.errors import UserError
from pangu.progress import Reporter, silent
from pangu.storage import read_json, write_json

TRIES = 3
"""How often a shard is begun before its failure is that of the ingest."""
SHARDS_PER_PROCESS = 4
"""Of one group at most: what starting a download process costs is shared by so many, and so many are behind when a node dies."""
POLL_SECONDS = 0.5
REST_SECONDS = 10.0
"""How long a node that failed gets nothing, so that a broken one does not fail for all others."""
PATIENCE_SECONDS = 120.0
"""How long a cluster may be without any node."""
SHARDS_FILE = "shards.json"


def group_size(waiting: int, nodes: int, processes: int) -> int:
    """How many shards the next idle node takes: its part of what is left, but never more than it should lose at once."""
    return max(1, min(math.ceil(waiting / max(nodes, 1)), SHARDS_PER_PROCESS * processes))


@dataclass(frozen=True)
class Group:
    """Shards of an ingest that one node fetches; in `raw`, a folder of its own, they are numbered from 0."""

    shards: tuple[int, ...]
    raw: RawFolder

    @classmethod
    def write(cls, folder: Path, ingest: RawFolder, shards: list[int]) -> "Group":
        """Lay out the folder for the node. Only the last shard of a list may be shorter."""
        group = cls(tuple(sorted(shards)), RawFolder(folder, ingest.rows_per_shard))
        folder.mkdir(parents=True)
        write_json(folder / SHARDS_FILE, group.shards)
        write_urls(group.raw, map(ingest.shard_urls, group.shards))
        return group

    @classmethod
    def read(cls, folder: Path, rows_per_shard: int) -> "Group | None":
        """The group of a folder that an earlier run left behind; None if it was killed while it laid it out."""
        group = RawFolder(folder, rows_per_shard)
        if not group.urls.is_dir():
            return None
        return cls(tuple(read_json(folder / SHARDS_FILE)), group)

    def finished(self) -> list[tuple[int, int]]:
        """(number here, number in the ingest) of the shards that are done."""
        done = self.raw.finished_shards()
        return [(here, shard) for here, shard in enumerate(self.shards) if here in done]


@dataclass
class ShardQueue:
    """Which shards of an ingest are whole, and which still wait for a node.

    known: the file that says what became of the rows of each whole shard. counts: their rows by reason ("" = ok).
    """

    card: Card
    raw: RawFolder
    expected: ShardRows
    known: dict[int, Path] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    waiting: list[int] = field(default_factory=list)
    tries: Counter[int] = field(default_factory=Counter)

    @property
    def groups(self) -> Path:
        return self.raw.root / "groups"

    @classmethod
    def open(cls, card: Card, raw: RawFolder) -> "ShardQueue":
        """Everything that earlier runs finished, on nodes or not, is known; the rest waits."""
        queue = cls(card, raw, raw.expected_rows())
        queue.groups.mkdir(parents=True, exist_ok=True)
        raw.shards.mkdir(parents=True, exist_ok=True)
        for file in sorted(queue.groups.glob("*.parquet")):
            queue._recall(file)
        for folder in sorted(path for path in queue.groups.iterdir() if path.is_dir()):
            left = Group.read(folder, raw.rows_per_shard)
            if left is not None:
                queue.settle(left)
            shutil.rmtree(folder, ignore_errors=True)
        whole = set(queue.known)
        queue.waiting = account_finished(card, raw, queue.expected, whole, queue._found_here)
        return queue

    def each_shard(self, found: Found) -> None:
        """Hand over the rows of every whole shard."""
        mine: dict[Path, set[int]] = {}
        for shard, file in self.known.items():
            mine.setdefault(file, set()).add(shard)
        for file, shards in sorted(mine.items()):
            for shard, states in _by_shard(file).items():
                if shard in shards:
                    found(states)

    def _recall(self, file: Path) -> None:
        """Take over what a group was found to be, but for shards that were fetched again since, or now hold other rows."""
        written = file.stat().st_mtime_ns
        for shard, states in _by_shard(file).items():
            path = self.raw.shard_file(shard)
            done = shard < len(self.expected) and path.is_file() and self.raw.stats_file(shard).is_file()
            if done and path.stat().st_mtime_ns <= written and states.keys() == self.expected[shard]:
                self._learn(shard, states, file)

    def _learn(self, shard: int, states: Mapping[int, RowState], file: Path) -> None:
        if shard not in self.known:
            self.counts.update(state.reason for state in states.values())
        self.known[shard] = file

    def _found_here(self, states: Mapping[int, RowState]) -> None:
        """A shard that somebody else fetched."""
        shard = next(iter(states.values())).shard
        file = self.groups / f"{shard:05d}-alone.parquet"
        write_table(states_table(states), file)
        self._learn(shard, states, file)

    def settle(self, group: Group, found: dict[int, RowState] | None = None) -> list[int]:
        """Move the whole shards of a group to their place and remember their rows; returns the shards it lacks.

        found: what became of its rows, by the node's own account; None reads them here.
        """
        rows = group.raw.expected_rows()
        states = dict(found or {})
        whole = {here for here in range(len(rows)) if rows[here] <= states.keys()}
        missing = set(account_finished(self.card, group.raw, rows, whole, states.update))
        moved = dict[int, dict[int, RowState]]()
        for here, shard in enumerate(group.shards):
            if here not in missing:
                # The statistics last: with them the shard is there.
                group.raw.shard_file(here).replace(self.raw.shard_file(shard))
                group.raw.stats_file(here).replace(self.raw.stats_file(shard))
                moved[shard] = {row: replace(states[row], shard=shard) for row in rows[here]}
        if moved:
            file = self.groups / f"{group.raw.root.name}.parquet"
            write_table(states_table({row: one for of in moved.values() for row, one in of.items()}), file)
            for shard, of_shard in moved.items():
                self._learn(shard, of_shard, file)
        return [group.shards[here] for here in sorted(missing)]


def _by_shard(file: Path) -> dict[int, dict[int, RowState]]:
    """What a group was found to be."""
    found: dict[int, dict[int, RowState]] = {}
    for one in pq.read_table(file, partitioning=None).to_pylist():
        found.setdefault(one["shard"], {})[one["row"]] = RowState(one["shard"], one["reason"], one["sha256"])
    return found


def fetch(card: Card, raw: RawFolder, origins: frozenset[tuple[str, int]]) -> dict[int, RowState]:
    """What a node does with one group."""
    states: dict[int, RowState] = {}
    download(card, raw, origins, None, silent, states.update)
    return states


@dataclass
class Fleet:
    """The nodes of the cluster, and which group each of them has."""

    queue: ShardQueue
    origins: frozenset[tuple[str, int]]
    deadline: float
    running: dict[Any, tuple[str, Group]] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    last_seen: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Give every idle node a group."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes, now = living_nodes(), time.monotonic()
        if nodes:
            self.last_seen = now
        busy = {node for node, _ in self.running.values()} | {node for node, end in self.resting.items() if now < end}
        card, waiting = self.queue.card, self.queue.waiting
        limits = card.limits.model_copy(update={"total_seconds": max(1.0, self.deadline - now)})
        for node in nodes:
            if node in busy or not waiting:
                continue
            size = group_size(len(waiting), len(nodes), card.limits.processes)
            shards, waiting[:size] = waiting[:size], []
            self.queue.tries.update(shards)
            folder = self.queue.groups / f"{shards[0]:05d}-{time.time_ns():x}"
            group = Group.write(folder, self.queue.raw, shards)
            # One group a node is this class's own rule, so nothing is reserved: a node whose slots are taken still downloads.
            remote = ray.remote(fetch).options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            )
            job = remote.remote(card.model_copy(update={"limits": limits}), group.raw, self.origins)
            self.running[job] = node, group

    def collect(self) -> None:
        """Wait a moment, and settle the groups that have ended; what they lack waits again.

        Raises:
            UserError: a shard stays incomplete wherever it is tried.
        """
        import ray

        if not self.running:
            time.sleep(POLL_SECONDS)
            return
        ended, _ = ray.wait(list(self.running), timeout=POLL_SECONDS)
        for job in ended:
            node, group = self.running.pop(job)
            found, why = None, ""
            try:
                found = ray.get(job)
            except UserError as error:
                why = str(error)
            except ray.exceptions.RayError as error:
                why = f"{type(error).__name__} on its node"
            missing = self.queue.settle(group, found)
            if missing:
                self.resting[node] = time.monotonic() + REST_SECONDS
            hopeless = [shard for shard in missing if self.queue.tries[shard] >= TRIES]
            if hopeless:
                raise UserError(
                    f"Ingest of '{self.queue.card.name}' gave up on shards {names(hopeless)} after {TRIES} nodes: {why}; "
                    f"see {group.raw.root / 'download.log'} and run the same command again to continue."
                )
            self.queue.waiting = sorted([*self.queue.waiting, *missing])
            shutil.rmtree(group.raw.root, ignore_errors=True)

    def check(self) -> None:
        """Raises UserError if the time is over, or if there has been no node for long."""
        now, name = time.monotonic(), self.queue.card.name
        if now > self.deadline:
            raise UserError(
                f"Ingest of '{name}' stopped (deadline) with {len(self.queue.waiting)} shards waiting and "
                f"{len(self.running)} groups under way; run the same command again to continue."
            )
        if not self.running and now - self.last_seen > PATIENCE_SECONDS:
            raise UserError(
                f"Ingest of '{name}' found no node with a CPU in the Ray cluster for {PATIENCE_SECONDS:.0f} s; add one."
            )

    def stop(self) -> None:
        """End what still runs; the download processes end with their workers."""
        import ray

        for job in self.running:
            with suppress(Exception):
                ray.cancel(job, force=True)


def living_nodes() -> list[str]:
    """Ids of the nodes that work; a head started with no CPU is kept out of everything, so out of this, too."""
    import ray

    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0)


def download_on_nodes(
    card: Card, raw: RawFolder, origins: frozenset[tuple[str, int]], report: Reporter, found: Found
) -> None:
    """What `download` does, on all nodes of the cluster that RAY_ADDRESS names; they see the same home.

    Nodes may come and go: a group whose node died is another node's, without the shards that were finished.

    Raises:
        UserError: a shard stays incomplete, the time is over, or there is no node.
    """
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    queue = ShardQueue.open(card, raw)
    fleet = Fleet(queue, origins, time.monotonic() + card.limits.total_seconds)
    tell = _Teller(queue, report)
    try:
        while queue.waiting or fleet.running:
            fleet.begin()
            tell(fleet)
            fleet.collect()
            fleet.check()
        tell(fleet)
    finally:
        fleet.stop()
    queue.each_shard(found)


class _Teller:
    """Reports when another shard is finished, wherever it lies."""

    def __init__(self, queue: ShardQueue, report: Reporter) -> None:
        self._queue, self._report = queue, report
        self._total, self._started = queue.expected.total, time.monotonic()
        self._at_start, self._told = queue.counts.total(), -1

    def __call__(self, fleet: Fleet) -> None:
        done, failed = self._queue.counts.total(), Counter[str]()
        for _, group in fleet.running.values():
            for here, shard in group.finished():
                done += self._queue.expected.size(shard)
                failed += failures(group.raw, here)
        if done == self._told:
            return
        failed += Counter({reason: count for reason, count in self._queue.counts.items() if reason})
        speed = (done - self._at_start) / max(time.monotonic() - self._started, 1e-6)
        found = progress(done, self._total, speed, failed)
        self._report(found.model_copy(update={"facts": found.facts | {"nodes": len(living_nodes())}}))
        self._told = done
