"""What a home began with it stays with; the environment says where the profile `server` keeps things; no secret is kept."""

from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.stack import backends
from pangu.stack.binaries import postgres_programs
from pangu.stack.profile import Login, Profile, as_name, choose, login, path_of, record, recorded
from pangu.storage import Home
from tests import subtests

URL = "postgresql://pangu:a%2Fb:c@db.example:6432"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with everything that the profile needs."""
    for name in ("PANGU_POSTGRES_URL", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PANGU_TABLES", "s3://data/tables/")
    monkeypatch.setenv("PANGU_ARTIFACTS", "s3://data/mlflow")
    return monkeypatch


def test_a_new_home_is_a_laptop_unless_a_server_is_asked_for(tmp_path: Path, server: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    assert choose(home, None) == Profile()
    chosen = choose(home, "server")
    assert chosen == Profile(name="server", tables="s3://data/tables", artifacts="s3://data/mlflow")


def test_a_home_stays_with_its_profile_and_the_other_one_is_one_sentence(
    tmp_path: Path, server: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    record(home, choose(home, "server"))
    for variable in ("PANGU_TABLES", "PANGU_ARTIFACTS"):
        server.delenv(variable)
    assert choose(home, None) == choose(home, "server") == recorded(home)
    with pytest.raises(UserError, match=r"began with the profile server, .* start it with --profile server, or set"):
        choose(home, "laptop")


def test_a_home_of_before_profiles_is_a_laptop(tmp_path: Path, server: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    (home.stack / "mlflow").mkdir(parents=True)
    (home.stack / "mlflow/mlflow.db").touch()
    with pytest.raises(UserError, match="began with the profile laptop"):
        choose(home, "server")


def test_another_place_than_before_is_refused_by_name(tmp_path: Path, server: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    record(home, choose(home, "server"))
    server.setenv("PANGU_POSTGRES_URL", URL)
    with pytest.raises(UserError, match=r"began with postgres of its own, and the environment names db\.example:6432"):
        choose(home, None)
    server.delenv("PANGU_POSTGRES_URL")
    server.setenv("PANGU_TABLES", "s3://elsewhere")
    with pytest.raises(
        UserError, match=r"began with tables s3://data/tables, and the environment names s3://elsewhere"
    ):
        choose(home, None)


@subtests.parametrize("variable", ["PANGU_TABLES", "PANGU_ARTIFACTS"])
@subtests.parametrize("value", ["", "/data/tables", "s3://"])
def test_without_object_storage_the_sentence_names_the_variable(
    tmp_path: Path, server: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=rf"{variable} is .*; set it to s3://BUCKET/PREFIX"):
        choose(Home(tmp_path), "server")


def test_the_database_is_one_url_and_its_password_is_never_remembered(
    tmp_path: Path, server: pytest.MonkeyPatch
) -> None:
    server.setenv("PANGU_POSTGRES_URL", URL)
    assert login() == Login(host="db.example", port=6432, user="pangu", password="a/b:c")
    home = Home(tmp_path)
    profile = choose(home, "server")
    record(home, profile)
    assert "a/b:c" not in path_of(home).read_text() and "a%2Fb" not in path_of(home).read_text()
    server.delenv("PANGU_POSTGRES_URL")
    assert choose(home, None) == profile
    with pytest.raises(UserError, match=r"databases are at db\.example:6432; set PANGU_POSTGRES_URL"):
        backends.database_of(profile, None)


@subtests.parametrize(
    "url",
    [
        "db.example",
        "mysql://u:secret@h",
        "postgresql://u@h",
        "postgresql://u:secret@h/mlflow",
        "postgresql://u:secret@h:x",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_repeated(server: pytest.MonkeyPatch, url: str) -> None:
    server.setenv("PANGU_POSTGRES_URL", url)
    with pytest.raises(UserError, match="must read postgresql://USER:PASSWORD@HOST:PORT") as refused:
        login()
    assert "secret" not in str(refused.value)


def test_a_broken_record_and_a_profile_that_is_none_are_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.stack.mkdir()
    path_of(home).write_text('{"name": "mainframe"}')
    with pytest.raises(UserError, match=r"profile\.json is broken"):
        recorded(home)
    with pytest.raises(UserError, match="no profile 'mainframe'; choose laptop or server"):
        as_name("mainframe")


def test_debians_newest_postgresql_is_found_where_the_path_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert postgres_programs(tmp_path) is None
    for version in ("9.6", "15", "16"):
        program = tmp_path / version / "bin/initdb"
        program.parent.mkdir(parents=True)
        program.touch()
    assert postgres_programs(tmp_path) == tmp_path / "16/bin"
