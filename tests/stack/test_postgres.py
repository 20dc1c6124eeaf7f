"""PostgreSQL of our own, for real: made once, refused by name, dumped and loaded; without the servers that use it."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.stack import Stack, backends, databases, postgres
from pangu.stack.backup import backup, restore
from pangu.stack.model import Database
from pangu.stack.ports import POSTGRES, choose_ports
from pangu.stack.processes import ProcessRecord
from pangu.stack.profile import Profile, choose, record, recorded
from pangu.storage import Home
from tests import nasty
from tests.stack.test_schema import described

SERVER = Profile(name="server", tables="s3://data/tables", artifacts="s3://data/mlflow")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of any name that PostgreSQL's user can get to; pytest's own are closed to everybody else."""
    folder = Path(tempfile.mkdtemp(prefix="pangu-postgres-"))
    (folder / nasty.NAME).mkdir()
    for each in (folder, folder / nasty.NAME):
        each.chmod(0o711)
    yield folder / nasty.NAME
    shutil.rmtree(folder, ignore_errors=True)


def at_home(home: Home, port: int) -> Stack:
    database = Database(host="127.0.0.1", port=port, user=postgres.SUPERUSER, own=True)
    stack = described(home).model_copy(update={"profile": SERVER, "database": database})
    databases.write_passfile(stack.passfile, database, postgres.password_of(home))
    return stack


def serve(home: Home, port: int) -> subprocess.Popen[bytes]:
    owner = postgres.system_user()
    postgres.prepare(home)
    return subprocess.Popen(
        postgres.command(home, port),
        cwd=postgres.data_folder(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **postgres._as(owner),
    )


def wait_for(stack: Stack) -> None:
    until = time.monotonic() + 120
    while not databases.answers(stack):
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.fixture(scope="module")
def running(place: Path) -> Iterator[Stack]:
    """A server in the home `place/home`, as `up` starts it after one that was killed half way and another one later."""
    home, port = Home(place / "home"), choose_ports(False, POSTGRES)["postgres_port"]
    unfinished = postgres.data_folder(home).with_name("new")
    unfinished.mkdir(parents=True)
    (unfinished / "half").touch()
    stack = at_home(home, port)
    server = serve(home, port)
    try:
        wait_for(stack)
        databases.prepare(stack)
        put(stack, "acknowledged")
        server.kill()
        server.wait()
        server = serve(home, port)
        wait_for(stack)
        yield stack
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(60)


def put(stack: Stack, name: str) -> None:
    with databases.connected(stack, "mlflow") as link, link.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS versions (name text)")
        cursor.execute("INSERT INTO versions VALUES (%s)", (name,))


def names(stack: Stack) -> list[str]:
    with databases.connected(stack, "mlflow") as link, link.cursor() as cursor:
        cursor.execute("SELECT name FROM versions ORDER BY name")
        return [row[0] for row in cursor.fetchall()]


def test_what_was_acknowledged_survived_kill_9(running: Stack) -> None:
    assert names(running) == ["acknowledged"]


def test_both_databases_are_made_and_asking_again_changes_nothing(running: Stack) -> None:
    databases.prepare(running)
    with databases.connected(running) as link, link.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        assert {"prefect", "mlflow"} <= {row[0] for row in cursor.fetchall()}


def test_it_runs_unprivileged_and_listens_on_the_loopback_interface_only(running: Stack) -> None:
    (pid,) = {int((postgres.data_folder(Home(running.home)) / "postmaster.pid").read_text().splitlines()[0])}
    process = ProcessRecord.of(pid).find()
    assert process is not None and process.uids().effective != 0
    assert {one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"} == {"127.0.0.1"}
    assert not [word for word in process.cmdline() if postgres.password_of(Home(running.home)) in word]
    assert (running.home / "stack/postgres_password").stat().st_mode & 0o777 == 0o600
    assert running.passfile.stat().st_mode & 0o777 == 0o600


def test_a_wrong_password_a_wrong_address_and_a_missing_database_are_one_sentence_each(
    running: Stack, tmp_path: Path
) -> None:
    assert running.database is not None
    wrong = running.model_copy(update={"runtime": tmp_path})
    databases.write_passfile(wrong.passfile, running.database, "no:such\\password")
    with pytest.raises(UserError, match="refuses the user pangu with this password; check PANGU_POSTGRES_URL"):
        databases.prepare(wrong)
    nobody = running.model_copy(update={"database": running.database.model_copy(update={"port": 9})})
    with pytest.raises(UserError, match=r"PostgreSQL at 127\.0\.0\.1:9 does not answer"):
        databases.prepare(nobody)
    with pytest.raises(UserError, match="has no database nowhere; create it: CREATE DATABASE nowhere OWNER pangu"), \
         databases.connected(running, "nowhere"):  # fmt: skip
        pass


def test_who_may_not_make_databases_is_told_what_the_administrator_has_to_say(running: Stack, tmp_path: Path) -> None:
    assert running.database is not None
    password = secrets.token_hex(8)
    with databases.connected(running) as link, link.cursor() as cursor:
        cursor.execute("DROP DATABASE prefect")
        cursor.execute("CREATE ROLE guest LOGIN PASSWORD %s", (password,))
    guest = running.model_copy(
        update={"runtime": tmp_path, "database": running.database.model_copy(update={"user": "guest"})}
    )
    databases.write_passfile(guest.passfile, guest.database, password)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"lets guest create no database; .* CREATE DATABASE prefect OWNER guest"):
        databases.prepare(guest)
    databases.prepare(running)


def test_a_server_of_others_is_entered_by_its_url_and_a_home_begins_only_where_everything_is_there(
    running: Stack, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.database is not None
    home, password = Home(place / "guest"), postgres.password_of(Home(running.home))
    settings = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "PANGU_TABLES": "s3://data/tables", "PANGU_ARTIFACTS": "s3://data/mlflow",
        "PANGU_POSTGRES_URL": f"postgresql://pangu:{password}@{running.database.address}",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    profile = choose(home, "server")
    database = backends.database_of(profile, None)
    assert database == running.database.model_copy(update={"own": False})
    stack = described(home).model_copy(update={"profile": profile, "database": database, "runtime": tmp_path})
    with pytest.raises(UserError, match="No object storage answers"):
        backends.lay(stack, False, print)
    assert databases.answers(stack)
    assert recorded(home) is None and not postgres.data_folder(home).exists()


def test_a_server_that_is_too_old_is_refused(running: Stack) -> None:
    with pytest.raises(UserError, match=r"is version 13\.4, and Prefect needs 14\.9 or newer; upgrade it"):
        databases._check_version(running, 130004)


def test_a_destroyed_home_gets_its_databases_back_at_the_next_start(
    running: Stack, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "is_running", property(lambda stack: stack.database is not None))
    home = Home(running.home)
    put(running, "pangu-pair")
    record(home, SERVER)
    running.save()
    kept = backup(home, tmp_path / "b.tar")
    assert kept.elsewhere == ("s3://data/tables", "s3://data/mlflow")
    other = Home(place / "restored")
    restore(tmp_path / "b.tar", other)
    assert not postgres.data_folder(other).exists()
    dumped = databases.dump_file(other, "mlflow")
    assert dumped.is_file()
    # The same server takes the part of a new one: first with what must not be overwritten, then empty.
    assert running.database is not None
    again = at_home(other, running.database.port)
    databases.write_passfile(again.passfile, running.database, postgres.password_of(home))
    with pytest.raises(UserError, match=r"database mlflow is not empty, and .*mlflow\.dump waits to be loaded"):
        databases.prepare(again)
    with databases.connected(running) as link, link.cursor() as cursor:
        cursor.execute("DROP DATABASE mlflow")
    databases.prepare(again)
    assert names(again) == ["acknowledged", "pangu-pair"]
    assert not dumped.exists()


def test_a_backup_without_its_server_is_one_sentence(place: Path, tmp_path: Path) -> None:
    home = Home(place / "stopped")
    record(home, SERVER)
    with pytest.raises(UserError, match=r"No stack is running under .* start it with `pangu up`"):
        backup(home, tmp_path / "b.tar")


def test_half_a_folder_was_begun_again_and_one_of_another_version_is_refused(running: Stack) -> None:
    data = postgres.data_folder(Home(running.home))
    assert not data.with_name("new").exists() and not (data / "half").exists()
    made = (data / "PG_VERSION").read_text()
    (data / "PG_VERSION").write_text("9\n")
    try:
        with pytest.raises(UserError, match=rf"was made by PostgreSQL 9, and {made.strip()} is installed"):
            postgres.check(Home(running.home))
    finally:
        (data / "PG_VERSION").write_text(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as somebody else")
def test_a_folder_that_its_user_can_not_get_to_is_named(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(
        UserError, match=rf"runs as the user postgres, whom {re.escape(str(closed))} does not let pass; chmod o\+x '"
    ):
        postgres.prepare(Home(closed / "home"))
