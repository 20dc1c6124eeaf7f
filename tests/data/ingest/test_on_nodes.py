"""An ingest over several nodes finds what one machine finds; whatever a node left behind is used once, and torn shards never.

`make nodes` does the same on a real cluster.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.ingest.on_nodes import SHARDS_PER_PROCESS, Group, ShardQueue, fetch, group_size
from pangu.data.ingest.raw import URLS, RawFolder, RowState, account, write_urls
from tests.data.conftest import Ingested


@given(st.integers(1, 10_000), st.integers(1, 300), st.integers(1, 16))
def test_every_node_gets_something_and_none_more_than_it_should_lose(waiting: int, nodes: int, processes: int) -> None:
    sizes, left = [], waiting
    for _ in range(min(nodes, waiting)):
        sizes.append(group_size(left, nodes, processes))
        left -= sizes[-1]
    assert left >= 0 and min(sizes) >= 1
    assert max(sizes) <= SHARDS_PER_PROCESS * processes
    assert sum(sizes) >= min(waiting, nodes)


def states_of(raw: RawFolder) -> dict[int, RowState]:
    found = {}
    for shard, rows in enumerate(raw.expected_rows()):
        found |= account(raw, shard, rows, 4_000_000) or {}
    return found


def known(queue: ShardQueue) -> dict[int, RowState]:
    """Every row that the queue knows."""
    found: dict[int, RowState] = {}
    queue.each_shard(found.update)
    return found


@pytest.fixture
def whole(ingested: Ingested) -> RawFolder:
    return RawFolder(ingested.home.raw("openmoji", ingested.outcome.ingest_id), ingested.card.limits.rows_per_shard)


@pytest.fixture
def begun(whole: RawFolder, tmp_path: Path) -> RawFolder:
    """The same listing, and nothing downloaded."""
    raw = RawFolder(tmp_path / "raw", whole.rows_per_shard)
    raw.root.mkdir()
    shutil.copytree(whole.urls, raw.urls)
    return raw


def leave(whole: RawFolder, begun: RawFolder, name: str, shards: list[int], done: list[int], torn: int = 0) -> Group:
    """What a node leaves behind that has fetched `done` of `shards`, counted within the group, and begun one more."""
    group = Group.write(begun.root / "groups" / name, begun, shards)
    group.raw.shards.mkdir()
    for here in done:
        shutil.copy(whole.shard_file(group.shards[here]), group.raw.shard_file(here))
        shutil.copy(whole.stats_file(group.shards[here]), group.raw.stats_file(here))
        if torn:
            group.raw.shard_file(here).write_bytes(group.raw.shard_file(here).read_bytes()[:-torn])
    return group


def test_a_group_is_its_shards_of_the_list_in_order(begun: RawFolder, whole: RawFolder) -> None:
    expected = begun.expected_rows()
    group = leave(whole, begun, "a", [1, 0], [])
    assert group.shards == (0, 1) and list(group.raw.expected_rows()) == list(expected)
    assert Group.read(group.raw.root, begun.rows_per_shard) == group
    alone = leave(whole, begun, "b", [1], [])
    assert list(alone.raw.expected_rows()) == [expected[1]]


def test_shards_that_a_dead_node_finished_are_kept_and_the_others_wait(
    ingested: Ingested, begun: RawFolder, whole: RawFolder
) -> None:
    leave(whole, begun, "dead", [0, 1], done=[1])
    queue = ShardQueue.open(ingested.card, begun)
    assert queue.waiting == [0]
    assert known(queue) == {row: state for row, state in states_of(whole).items() if state.shard == 1}
    assert queue.counts.total() == len(known(queue))
    assert not (queue.groups / "dead").exists() and begun.stats_file(1).is_file()


def test_a_torn_shard_of_a_group_is_fetched_again(ingested: Ingested, begun: RawFolder, whole: RawFolder) -> None:
    leave(whole, begun, "torn", [0, 1], done=[0], torn=100)
    queue = ShardQueue.open(ingested.card, begun)
    assert queue.waiting == [0, 1] and not known(queue)
    assert not begun.shard_file(0).exists()


def test_what_was_found_is_remembered_until_the_shard_is_fetched_again(
    ingested: Ingested, begun: RawFolder, whole: RawFolder
) -> None:
    queue = ShardQueue.open(ingested.card, begun)
    group = leave(whole, begun, "one", [0, 1], done=[0, 1])
    assert queue.settle(group) == []
    assert known(ShardQueue.open(ingested.card, begun)) == known(queue) == states_of(whole)
    # Whoever replaces a shard by another one is believed, not the note of the first.
    other = begun.shard_file(0).read_bytes()
    table = pq.read_table(begun.shard_file(0))
    pq.write_table(table.slice(0, table.num_rows - 1), begun.shard_file(0))
    assert ShardQueue.open(ingested.card, begun).waiting == [0]
    begun.shard_file(0).write_bytes(other)


def test_what_was_found_of_a_row_that_now_belongs_to_another_shard_is_forgotten(
    ingested: Ingested, begun: RawFolder, whole: RawFolder
) -> None:
    assert ShardQueue.open(ingested.card, begun).settle(leave(whole, begun, "one", [0, 1], done=[0, 1])) == []
    urls = pq.read_table(begun.urls)
    write_urls(begun, [pa.concat_tables([pa.table({"row": [999], "url": [""]}, schema=URLS), urls.cast(URLS)])])
    assert ShardQueue.open(ingested.card, begun).waiting == [0, 1, 2]


def test_a_node_that_goes_on_after_it_was_given_up_changes_nothing(
    ingested: Ingested, begun: RawFolder, whole: RawFolder
) -> None:
    queue = ShardQueue.open(ingested.card, begun)
    late, second = (leave(whole, begun, name, [0, 1], done=[0, 1]) for name in ("late", "second"))
    assert queue.settle(second) == []
    before = begun.shard_file(0).stat().st_mtime_ns
    late.raw.shard_file(0).write_bytes(b"another answer of the same server")
    assert begun.shard_file(0).stat().st_mtime_ns == before and states_of(begun) == states_of(whole)


def test_a_node_fetches_a_group_of_its_own(ingested: Ingested, begun: RawFolder, whole: RawFolder) -> None:
    """On this machine, without a cluster: the origin is gone, so every row fails, and each is accounted for."""
    group = leave(whole, begun, "mine", [1], done=[])
    origins = frozenset({("127.0.0.1", 9)})
    found = fetch(ingested.card, group.raw, origins)
    assert found.keys() == group.raw.expected_rows()[0] and all(state.reason for state in found.values())
