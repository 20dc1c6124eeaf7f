"""A real ingest from a real origin: every row is accounted for, nothing forbidden is reached, a rerun does nothing twice."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pangu.cli import main
from pangu.data.card import Card, load_card
from pangu.data.example import openmoji
from pangu.data.example.origin import BROKEN, SMALL_SIDE, Origin, port_to_reuse
from pangu.data.ingest.raw import RawFolder, account, write_table
from pangu.data.ingest.reuse import waits
from pangu.data.ingest.stage import ingest, only_one
from pangu.data.prepare.row_plan import plan_rows
from pangu.data.prepare.stage import prepare
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.conftest import DRAWINGS, Ingested, small_card


@pytest.fixture
def raw(ingested: Ingested) -> RawFolder:
    return RawFolder(ingested.home.raw("openmoji", ingested.outcome.ingest_id), ingested.card.limits.rows_per_shard)


def test_every_listed_row_is_ok_or_failed_for_one_reason(ingested: Ingested) -> None:
    outcome = ingested.outcome
    assert outcome.listed == DRAWINGS + len(BROKEN) == 36
    assert outcome.ok + sum(outcome.failed.values()) == outcome.listed
    assert outcome.failed == {
        "connection_lost": 1,
        "empty": 1,
        "http_404": 1,
        "not_an_image": 2,
        "refused_redirect": 2,
        "timeout": 1,
        "too_many_pixels": 1,
    }
    assert not outcome.already_done


def test_each_broken_url_fails_for_its_own_reason(raw: RawFolder) -> None:
    rows = {row["url"].rsplit("/", 1)[-1]: row["reason"] for row in pq.read_table(raw.rows).to_pylist()}
    assert {kind: rows[kind] for kind in BROKEN} == {
        "not-found": "http_404",
        "reset": "connection_lost",
        "truncated": "",  # a whole download of half a file: prepare finds out
        "page": "not_an_image",
        "empty": "empty",
        "not-an-image": "not_an_image",
        "hangs": "timeout",
        "absurd-size": "too_many_pixels",
        "duplicate": "",
        "no-caption": "",
        "redirect-to-file": "refused_redirect",
        "redirect-to-neighbour": "refused_redirect",
    }


def test_the_bytes_are_those_the_origin_served(raw: RawFolder) -> None:
    served = {hashlib.sha256(openmoji.render_png(openmoji.selection(DRAWINGS)[0], SMALL_SIDE)).hexdigest()}
    first = next(row for row in pq.read_table(raw.rows).to_pylist() if "/0-" in row["url"])
    stored = {row: data for row, data, _ in raw.images(first["shard"])}[first["row"]]
    assert {first["sha256"], hashlib.sha256(stored or b"").hexdigest()} == served


def test_progress_ends_with_everything(ingested: Ingested) -> None:
    assert ingested.reports[-1].done == ingested.reports[-1].total == 36


def test_the_same_table_again_does_nothing_and_says_so(ingested: Ingested) -> None:
    again = ingest(ingested.card, ingested.home)
    assert again.already_done
    assert again.model_copy(update={"already_done": False}) == ingested.outcome


def test_a_finished_ingest_fetches_again_only_the_shards_that_are_gone(
    ingested: Ingested, raw: RawFolder, tmp_path: Path
) -> None:
    card, whole, home = ingested.card, ingested.outcome, Home(tmp_path)
    raw = RawFolder(shutil.copytree(raw.root, home.raw(card.name, whole.ingest_id)), raw.rows_per_shard)
    raw.shard_file(1).write_bytes(b"torn")
    untouched = raw.shard_file(0).stat().st_mtime_ns
    assert raw.lost() and not RawFolder(ingested.home.raw(card.name, whole.ingest_id)).lost()
    again = ingest(card, home)
    assert again.model_copy(update={"seconds": 0}) == whole.model_copy(update={"seconds": 0})
    assert raw.shard_file(0).stat().st_mtime_ns == untouched and not raw.lost()
    assert ingest(card, home).already_done


def test_another_threshold_downloads_nothing_again(ingested: Ingested) -> None:
    card = ingested.card.model_copy(update={"texture_min_side": 32})
    assert ingest(card, ingested.home).already_done


def test_a_shard_that_lost_a_row_or_is_torn_is_not_accounted_for(raw: RawFolder, tmp_path: Path) -> None:
    expected = raw.expected_rows()
    assert account(raw, 0, expected[0], 4_000_000)
    assert account(raw, 0, expected[0] | {999}, 4_000_000) is None
    copy = RawFolder(tmp_path, raw.rows_per_shard)
    copy.shards.mkdir()
    copy.stats_file(0).write_bytes(raw.stats_file(0).read_bytes())
    copy.shard_file(0).write_bytes(raw.shard_file(0).read_bytes()[:-100])
    assert account(copy, 0, expected[0], 4_000_000) is None


def test_an_ingest_killed_in_the_middle_continues_with_the_shards_it_lacks(
    ingested: Ingested, raw: RawFolder, tmp_path: Path
) -> None:
    card, whole, home = ingested.card, ingested.outcome, Home(tmp_path)
    raw = RawFolder(shutil.copytree(raw.root, home.raw(card.name, whole.ingest_id)), raw.rows_per_shard)
    # What a SIGKILL in the middle of shard 1 leaves behind.
    for file in (raw.outcome, raw.rows, raw.stats_file(1)):
        file.unlink()
    raw.shard_file(1).write_bytes(raw.shard_file(1).read_bytes()[:1000])
    untouched = raw.shard_file(0).stat().st_mtime_ns
    continued = ingest(card, home)
    assert raw.shard_file(0).stat().st_mtime_ns == untouched
    assert not continued.already_done
    assert continued.model_copy(update={"seconds": 0}) == whole.model_copy(update={"seconds": 0})


def test_an_ingest_past_its_deadline_names_the_shards_and_leaves_no_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    card = small_card(home)
    card = card.model_copy(update={"limits": card.limits.model_copy(update={"total_seconds": 0.5})})
    origin = Origin(4)
    origin.write_table(Path(card.source))  # it listens, but never answers
    try:
        with pytest.raises(UserError, match=r"\(deadline\).* 00000 of 1.*run the same command again"):
            ingest(card, home)
    finally:
        for server in origin._servers:
            server.server_close()
    mine = subprocess.run(["pgrep", "-f", f"guarded_download {tmp_path}"], capture_output=True, text=True)
    assert mine.stdout == ""


@pytest.mark.long
def test_killing_an_ingest_leaves_no_download_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    card = small_card(home)
    limits = card.limits.model_copy(update={"max_seconds": 60.0, "processes": 2})
    card_file = tmp_path / "card.yaml"
    card_file.write_text(card.model_copy(update={"limits": limits}).model_dump_json())  # JSON is YAML
    origin = Origin(24)
    origin.write_table(Path(card.source))  # it listens, but never answers
    try:
        with subprocess.Popen(pangu(tmp_path, "ingest", str(card_file)), env=environment(tmp_path)) as process:
            downloads = wait_for_workers(psutil.Process(process.pid))
            process.kill()
        gone, alive = psutil.wait_procs(downloads, timeout=10)
        assert len(gone) >= 3 and not alive
    finally:
        for server in origin._servers:
            server.server_close()


def wait_for_workers(process: psutil.Process) -> list[psutil.Process]:
    """The download process and everything it started, once both workers are at work (they hold connections)."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        children = process.children(recursive=True)
        if sum(bool(child.net_connections()) for child in children) >= 2:
            return children
        time.sleep(0.2)
    raise AssertionError("no download process opened a connection")


def test_a_table_of_refused_urls_needs_no_download(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("url,caption_en,caption_zh,license\nfile:///etc/hostname,a,b,c\nhttp://10.0.0.1/x.png,a,b,c\n")
    card = small_card(Home(tmp_path)).model_copy(update={"source": str(table)})
    outcome = ingest(card, Home(tmp_path))
    assert (outcome.listed, outcome.ok, outcome.failed) == (2, 0, {"refused_address": 1, "refused_scheme": 1})


@contextmanager
def flaky_origin() -> Iterator[int]:
    """/good answers; /busy fails once and then answers; /gone never does. Counts requests in the answer to /count."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            asked[name] += 1
            if name == "count":
                self.answer(json.dumps(asked).encode())
            elif name == "gone" or (name == "busy" and asked[name] == 1):
                self.send_error(404 if name == "gone" else 429)
            else:
                self.answer(openmoji.render_png(openmoji.selection(30)[sum(map(ord, name)) % 30], 64))

        def answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def list_rows(card: Card, port: int, names: list[str]) -> None:
    rows = "\n".join(f"http://127.0.0.1:{port}/{name},a {name},," for name in names)
    Path(card.source).write_text(f"url,caption_en,caption_zh,license\n{rows}\n")


@pytest.mark.long
def test_retries_wait_by_reason_and_new_rows_alone_are_fetched(tmp_path: Path) -> None:
    home, waited = Home(tmp_path), list[float]()
    card = small_card(home).model_copy(update={"source": str(tmp_path / "urls.csv")})
    card = card.model_copy(update={"limits": card.limits.model_copy(update={"retry_rounds": 1, "max_seconds": 60.0})})
    with flaky_origin() as port:
        list_rows(card, port, ["good", "busy", "gone"])
        first = ingest(card, home)
        assert first.failed == {"http_404": 1, "http_429": 1}
        again = ingest(card, home, retry=True, wait=waited.append)
        assert (again.ok, again.failed, again.listed) == (2, {"http_404": 1}, 3)
        assert waited == [120] and again.ingest_id == f"{first.ingest_id}r1"
        assert ingest(card, home).ingest_id == again.ingest_id

        list_rows(card, port, ["good", "busy", "gone", "fresh"])
        more = ingest(card, home)
        assert (more.ok, more.failed, more.reused) == (3, {"http_404": 1}, 3)

        shutil.rmtree(home.raw(card.name, first.ingest_id) / "shards")  # which held the bytes of one row of it
        healed = ingest(card, home)
        assert (healed.ok, healed.failed, healed.ingest_id) == (3, {"http_404": 1}, f"{more.ingest_id}r1")
        assert ingest(card, home).already_done
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/count") as answer:
            asked = json.load(answer)
    assert asked == {"good": 2, "busy": 2, "gone": 1, "fresh": 1, "count": 1}
    outcome = prepare(card.model_copy(update={"texture_min_side": 32}), healed.ingest_id, home)
    assert (outcome.rows, outcome.dropped) == (3, {})


@pytest.mark.long
def test_what_an_earlier_version_refused_is_asked_for_by_retry_and_what_is_refused_still_is_not(tmp_path: Path) -> None:
    home, waited = Home(tmp_path), list[float]()
    card = small_card(home).model_copy(update={"source": str(tmp_path / "urls.csv")})
    card = card.model_copy(update={"limits": card.limits.model_copy(update={"max_seconds": 60.0})})
    with flaky_origin() as port:
        list_rows(card, port, ["gone"])
        with Path(card.source).open("a") as table:
            table.write(f"http://127.0.0.1:{port}/狐 狸,a fox,,\nhttp://user@127.0.0.1/,a user,,\n")
        first = ingest(card, home)
        assert (first.ok, first.failed) == (1, {"bad_url": 1, "http_404": 1})
        raw = RawFolder(home.raw(card.name, first.ingest_id))
        rows = pq.read_table(raw.rows)
        asked = urllib.parse.quote("/狐 狸")
        assert [url.endswith(asked) for url in pq.read_table(raw.urls)["url"].to_pylist()] == [False, True]
        assert rows["url"].to_pylist()[1].endswith("/狐 狸")
        was = pa.array(["http_404", "bad_url", "bad_url"])  # what the version before would have left
        write_table(rows.set_column(rows.column_names.index("reason"), "reason", was), raw.rows)
        again = ingest(card, home, retry=True, wait=waited.append)
    assert (again.ok, again.failed, again.ingest_id) == (1, {"bad_url": 1, "http_404": 1}, f"{first.ingest_id}r1")
    assert waited == [0]


def test_a_failure_waits_twice_as_long_each_time_and_a_hopeless_one_not_at_all() -> None:
    states = ["", "timeout", "http_404", "connection_lost", "empty"]
    assert waits(states, 0) == {"timeout": 30, "connection_lost": 5}
    assert waits(states, 2) == {"timeout": 120, "connection_lost": 20}


@pytest.mark.long
def test_a_hundred_thousand_rows_of_one_url_ask_for_it_once_and_are_one_row(tmp_path: Path) -> None:
    """One key fills everything: the list, the shard that holds its bytes, and the rows of equal bytes."""
    count, home = 100_000, Home(tmp_path)
    table = tmp_path / "urls.csv"
    card = small_card(home).model_copy(update={"source": str(table)})
    card = card.model_copy(update={"limits": card.limits.model_copy(update={"max_seconds": 60.0})})
    with flaky_origin() as port:
        rows = (f"http://127.0.0.1:{port}/good,caption {row % 3},,\n" for row in range(count))
        table.write_text("url,caption_en,caption_zh,license\n" + "".join(rows))
        outcome = ingest(card, home)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/count") as answer:
            assert json.loads(answer.read())["good"] == 1
    assert (outcome.listed, outcome.ok, outcome.failed, outcome.reused) == (count, count, {}, 0)
    assert ingest(card, home).already_done
    raw = RawFolder(home.raw(card.name, outcome.ingest_id), card.limits.rows_per_shard)
    places = pq.read_table(raw.rows, columns=["ingest", "shard", "raw_row"]).group_by(["ingest", "shard", "raw_row"])
    assert places.aggregate([([], "count_all")])["count_all"].to_pylist() == [1, count - 1]
    plan = plan_rows(raw.rows, tmp_path / "plan.parquet")
    assert plan.dropped == {"duplicate": count - 1} and [one.count for one in plan.shards] == [1]
    [row] = plan.shards[0].rows().to_pylist()
    assert (row["raw_row"], row["caption_en"], row["more_captions_en"]) == (0, "caption 0", ["caption 1", "caption 2"])


def test_two_at_once_is_one_sentence(tmp_path: Path) -> None:
    second = only_one(tmp_path / "lock", "ingest", wait_s=0.1)
    with only_one(tmp_path / "lock", "ingest"), pytest.raises(UserError, match="Another ingest is running"), second:
        pass


def pangu(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pangu", *arguments]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PANGU_HOME": str(home)}


@pytest.mark.long
def test_the_origin_command_serves_until_sigterm_and_comes_back_with_the_same_urls(tmp_path: Path) -> None:
    table = Path(load_card("openmoji").source_uri(Home(tmp_path)))
    ports = []
    for _ in range(2):
        command = pangu(tmp_path, "example-server", "--port", "0", "--count", "3")
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(tmp_path), text=True) as process:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            ports.append(port_to_reuse(table))
            assert facts["listed"] == pq.read_table(table).num_rows == 15
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert ports[0] == ports[1] != 0
    checked = subprocess.run(
        pangu(tmp_path, "cards", "check", "openmoji"), env=environment(tmp_path), capture_output=True, text=True
    )
    assert checked.returncode == 0 and checked.stdout.count("would be tried") == 10


@subtests.parametrize("stage", [("ingest",), ("prepare", "--ingest-id", "x"), ("cards", "check")])
def test_a_bad_card_is_one_sentence_and_exit_code_2(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stage: tuple[str, ...]
) -> None:
    bad = home.root / "bad.yaml"
    bad.write_text("name: bad\ncolour: red\n")
    monkeypatch.setattr(sys, "argv", ["pangu", *stage, str(bad)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and "'colour'" in said.err and str(bad) in said.err
