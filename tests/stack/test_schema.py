"""Databases of another version: found without importing the packages, refused by name, and brought up to date when asked."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from pangu.errors import UserError
from pangu.stack import Stack, database_schema
from pangu.storage import Home
from tests import subtests

checks = subtests.Checks()

OLDER = """\
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels.initial_models import Base
Base.metadata.create_all(create_sqlalchemy_engine(sys.argv[1]))
command.upgrade(_get_alembic_config(sys.argv[1]), sys.argv[2])
"""
"""How MLflow itself makes a database, but only up to a revision."""


def described(home: Home) -> Stack:
    """A stack that was never started."""
    ports = {f"{part}_port": 1 for part in ("prefect", "mlflow", "ray", "ray_client", "ray_dashboard", "serve")}
    return Stack(
        stack_id="x", home=home.root, project=home.root, runtime=home.root, token_path=home.root / "token", **ports
    )  # type: ignore[arg-type]


def with_revision(home: Home, name: str, revision: str) -> Stack:
    path = home.stack / name / f"{name}.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        database.commit()
    return described(home)


@subtests.parametrize(
    ("name", "folder"),
    [
        ("prefect", "server/database/_migrations/versions/sqlite"),
        ("prefect", "server/database/_migrations/versions/postgresql"),
        ("mlflow", "store/db_migrations/versions"),
    ],
)
def test_the_newest_revision_is_the_one_that_alembic_finds(name: str, folder: str) -> None:
    versions = database_schema._package(name) / folder
    config = Config()
    config.set_main_option("script_location", str(versions.parent))
    config.set_main_option("version_locations", str(versions))
    known = database_schema.migrations(name, folder.endswith("postgresql"))
    script = ScriptDirectory.from_config(config)
    assert database_schema.heads(known) == set(script.get_heads())
    assert known.keys() == {one.revision for one in script.walk_revisions()}


@subtests.parametrize(("name", "package"), [("prefect", "Prefect"), ("mlflow", "MLflow")])
def test_an_older_database_is_refused_with_the_command_that_upgrades_it(
    tmp_path: Path, name: str, package: str
) -> None:
    known = database_schema.migrations(name, False)
    (first,) = {revision for revision, before in known.items() if not before}
    stack = with_revision(Home(tmp_path), name, first)
    with pytest.raises(
        UserError, match=rf"database of {package} is of an older version \(revision {first}.*`pangu up --upgrade`"
    ):
        database_schema.check(stack, False, print)


@checks
def a_newer_database_is_refused_even_where_an_upgrade_is_asked_for(tmp_path: Path) -> None:
    stack = with_revision(Home(tmp_path), "prefect", "ffffffffffff")
    with pytest.raises(UserError, match=r"of a newer version than prefect .* install the version"):
        database_schema.check(stack, True, print)


@checks
def what_the_installed_version_left_half_way_is_completed_without_being_asked(tmp_path: Path) -> None:
    known = database_schema.migrations("prefect", False)
    (first,) = {revision for revision, before in known.items() if not before}
    database_schema.check(described(Home(tmp_path)), False, print)
    database_schema.check(with_revision(Home(tmp_path), "prefect", first), False, print)


@checks
def a_new_home_and_an_empty_database_need_nothing(tmp_path: Path) -> None:
    database_schema.check(described(Home(tmp_path)), False, print)
    (tmp_path / "stack/mlflow").mkdir(parents=True)
    sqlite3.connect(tmp_path / "stack/mlflow/mlflow.db").close()
    database_schema.check(described(Home(tmp_path)), False, print)


@pytest.mark.long
@pytest.mark.slow
def test_an_older_mlflow_database_is_brought_up_to_date(tmp_path: Path) -> None:
    stack = described(Home(tmp_path))
    (tmp_path / "stack/mlflow").mkdir(parents=True)
    known = database_schema.migrations("mlflow", False)
    (newest,) = database_schema.heads(known)
    (before,) = known[newest]
    command = [sys.executable, "-c", OLDER, f"sqlite:///{tmp_path}/stack/mlflow/mlflow.db", before]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **stack.environment()})
    with pytest.raises(UserError, match="of an older version"):
        database_schema.check(stack, False, print)
    database_schema.check(stack, True, print)
    assert database_schema.revision(stack, "mlflow") == newest
    database_schema.check(stack, False, print)


test_schema = checks.test()
