"""The whole path with its source and its table in S3: versions, two writers, vacuum, and a bucket that is not there."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest
import torch

from pangu.config import Execution, Recipe
from pangu.data.encode.stage import encode
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.stage import prepare
from pangu.data.rows.load import load_rows
from pangu.data.rows.local_cache import cache_folder
from pangu.data.rows.on_the_fly import OnTheFlyRows
from pangu.data.rows.read_ahead import HELD_BYTES
from pangu.data.table.delta import commit, latest_version, read_rows
from pangu.data.table.schema import SCHEMA
from pangu.data.table.store import TableStore, file_system
from pangu.data.table.version_files import write_part
from pangu.data.table.versions import log, show, vacuum
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.stack.ports import free_port
from pangu.storage import Home
from pangu.train.loop import train_loop
from tests.data.ingest.test_local_sources import card, parquet
from tests.data.table.test_table import ROWS
from tests.small_dataset import NAME, commit_rows

ODD = "我的 数据/{a} <b>"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A real S3 server on loopback, with one bucket; a process of its own, because deltalake waits for it with the GIL held."""
    with served(["-m", "moto.server", "-H", "127.0.0.1", "-p"]) as url:
        yield url


@contextmanager
def served(command: list[str], *options: str) -> Iterator[str]:
    """The address of a server of Python's that is told its port, with a bucket; the environment names it."""
    port = free_port()
    whole = [sys.executable, *command, str(port), *options]
    with subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            options_of = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment(f"http://127.0.0.1:{port}").items():
                    patch.setenv(name, value)
                pyarrow.fs.FileSystem.from_uri(f"s3://data/?{options_of}")[0].create_dir("data")
                yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError("the S3 server did not start")


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "PANGU_TABLES": "s3://data/tables",
    }  # fmt: skip


def test_from_a_table_in_s3_to_rows_in_s3_and_back(endpoint: str, tmp_path: Path) -> None:
    filesystem, _ = file_system("s3://data/x")
    filesystem.put_file(str(parquet(tmp_path / "local.parquet")), "data/source/part-0.parquet")
    home, columns = Home(tmp_path / "home"), {"caption_en": "en", "caption_zh": "zh", "image": "picture"}
    mine = card("s3://data/source/*.parquet", columns=columns)
    done = ingest(mine, home)
    outcome = prepare(mine, done.ingest_id, home)
    assert (done.ok, outcome.rows, outcome.version) == (7, 7, 0)
    assert not home.table("local").exists()
    rows = read_rows(home, "local", 0)
    assert rows.num_rows == 7 and show(home, "local").rows == 7
    strict = card("s3://data/source/*.parquet", columns=columns, filters={"min_side": 30})
    assert refilter(strict, home, 0).rows == 3
    assert prepare(mine, done.ingest_id, home).already_done
    assert read_rows(home, "local", 0).equals(rows)
    other = Home(tmp_path / "other")  # has the table, but nothing of what its versions rejected
    with pytest.raises(UserError, match=r"rejected is not all here: it was made in another home.*pangu prepare local"):
        refilter(card("s3://data/source/*.parquet", columns=columns, filters={"min_side": 20}), other, 0)
    again = prepare(mine, ingest(mine, other).ingest_id, other)
    assert not again.already_done and read_rows(other, "local", again.version).equals(rows)


def test_two_writers_meet_at_conditional_puts_and_both_land(endpoint: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    commit_rows(home, ROWS[:4], "first")
    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(lambda number: commit_rows(home, ROWS[: 2 + number], f"w{number}"), range(3)))
    assert sorted(versions) == [1, 2, 3]
    assert [read_rows(home, NAME, version).num_rows for version in versions] == [2, 3, 4]
    assert vacuum(home, NAME, keep=1, dry_run=False)
    assert [entry.readable for entry in log(home, NAME)] == [True, False, False, False]
    with pytest.raises(UserError, match="Version 0 of dataset 'small' was vacuumed"):
        read_rows(home, NAME, 0)


@pytest.mark.long
def test_a_store_that_lists_late_loses_no_version_and_shows_no_half_of_one(tmp_path: Path) -> None:
    late, known_after_s = str(Path(__file__).with_name("late_s3.py")), 2.0
    with served([late], str(known_after_s)):
        one, other = Home(tmp_path / "one", "s3://data/late"), Home(tmp_path / "other", "s3://data/late")
        started = time.monotonic()
        assert commit_rows(one, ROWS[:4], "first") == 0
        assert time.monotonic() - started > known_after_s, "the server lists late"
        with ThreadPoolExecutor(2) as pool:
            versions = list(pool.map(lambda at: commit_rows((one, other)[at], ROWS[: 2 + at], f"w{at}"), range(2)))
        newest = commit_rows(other, ROWS[:5], "last")
        assert 0 < min(versions) < max(versions) < newest
        # A commit that is not listed yet may be made once more, of the same rows; each number is one whole commit.
        found = [sorted(read_rows(one, NAME, at)["image"].to_pylist()) for at in range(newest + 1)]
        counts = zip((0, *versions, newest), (4, 2, 3, 5), strict=True)
        whole = {version: sorted(row["image"] for row in ROWS[:count]) for version, count in counts}
        assert {version: found[version] for version in whole} == whole
        assert all(rows in whole.values() for rows in found)


@pytest.mark.long
def test_a_vacuum_from_another_home_leaves_a_prepare_under_way_its_files(endpoint: str, tmp_path: Path) -> None:
    one, other = Home(tmp_path / "one", "s3://data/shared"), Home(tmp_path / "other", "s3://data/shared")
    commit_rows(one, ROWS[:4], "old")
    commit_rows(one, ROWS[:5], "new")
    store = TableStore.of(one, NAME)
    written = write_part(store, "under-way", pa.Table.from_pylist([ROWS[0]], schema=SCHEMA), upscaled=False)
    would = vacuum(other, NAME, keep=1, dry_run=True)
    gone = vacuum(other, NAME, keep=1, dry_run=False)
    assert gone == would and gone and all("old-" in file for file in gone)
    version = commit(one, NAME, "under-way", [written], {})
    assert read_rows(one, NAME, version).num_rows == 1
    assert read_rows(one, NAME, version)["image"].to_pylist() == [ROWS[0]["image"]]
    commit_rows(other, ROWS, "newer")
    assert any(file.startswith("_images/under-way/") for file in vacuum(other, NAME, keep=1, dry_run=False))
    with pytest.raises(UserError, match="was vacuumed"):
        read_rows(one, NAME, version)
    abandoned = write_part(store, "abandoned", pa.Table.from_pylist([ROWS[0]], schema=SCHEMA), upscaled=False)
    assert abandoned.path in vacuum(other, NAME, keep=1, dry_run=True, unfinished_hours=0)


@pytest.mark.long
def test_sources_have_any_name_and_tables_nearly_any_and_the_others_are_one_sentence(
    endpoint: str, tmp_path: Path
) -> None:
    home = Home(tmp_path, f"s3://data/{ODD}")
    filesystem, path = file_system(f"s3://data/{ODD}/#1?%20[a]/p-1.parquet")
    filesystem.put_file(str(parquet(tmp_path / "local.parquet")), path)
    columns = {"caption_en": "en", "caption_zh": "zh", "image": "picture"}
    mine = card(f"s3://data/{ODD}/#1?%20[a]/p-*.parquet", columns=columns)
    assert prepare(mine, ingest(mine, home).ingest_id, home).rows == 7
    strict = refilter(card(mine.source, columns=columns, filters={"min_side": 30}), home, 0)
    assert show(home, "local", strict.version).rows == 3 and read_rows(home, "local", 0).num_rows == 7
    with pytest.raises(UserError, match=r"takes no table at s3://data/a#b/local: its address has '#' in it"):
        prepare(mine, ingest(mine, Home(tmp_path / "new")).ingest_id, Home(tmp_path / "new", "s3://data/a#b"))


@pytest.mark.long
def test_training_rows_are_encoded_from_s3(endpoint: str, tmp_path: Path) -> None:
    home, recipe = Home(tmp_path, "s3://data/others"), tiny()
    assert isinstance(recipe, Recipe)
    commit_rows(home, ROWS, "k")
    assert encode(NAME, 0, recipe, home).rows["structure"] == len(ROWS)


@pytest.mark.long
def test_images_are_read_from_s3_ahead_of_the_steps_where_there_is_no_room_for_a_copy(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANGU_TABLES", "s3://data/far")
    home = Home(tmp_path)
    recipe = tiny().model_copy(update={"execution": Execution(latents="on_the_fly", prefetch=0)})
    commit_rows(home, ROWS, "k")
    folder = home.encoded(NAME, encode(NAME, 0, recipe, home).encode_id)
    copied = load_rows(folder, "structure", recipe)
    assert list(cache_folder(folder).rglob("images.bin")), "there is room"
    shutil.rmtree(cache_folder(folder))
    monkeypatch.setattr("pangu.data.rows.on_the_fly.has_room", lambda *_: False)
    rows = load_rows(folder, "structure", recipe)
    assert isinstance(rows, OnTheFlyRows) and not list(cache_folder(folder).rglob("images.bin"))
    everything = list(range(len(ROWS)))
    assert list(rows.keys) == list(copied.keys)
    assert torch.equal(rows.latents(everything), copied.latents(everything))
    ahead = rows._images._ahead
    assert ahead is not None
    rows.expect(everything)
    assert len(ahead._coming) == len(ROWS)
    train_loop("structure", recipe, rows, "e", tmp_path / "far")
    assert not ahead._coming or ahead._room + sum(one.end - one.start for one in ahead._coming) == HELD_BYTES


def test_a_bucket_that_is_not_there_is_one_sentence(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"store s3://nowhere/x/small cannot be used .*bucket and keys"):
        latest_version(Home(tmp_path, "s3://nowhere/x"), NAME)
    store = TableStore("s3://nowhere/x/small")
    with pytest.raises(UserError, match=r"store s3://nowhere/x/small cannot be used"):
        store.write_parquet("a.parquet", read_rows_table())
    assert "PANGU_TABLES" in os.environ


def read_rows_table():  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.table({"x": [1]})
