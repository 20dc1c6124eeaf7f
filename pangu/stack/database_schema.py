"""Are the databases of the versions that are installed? Read from Alembic's table and from the packages' own migrations.

Neither package is imported: that would cost `up` several seconds.
"""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pangu.errors import UserError
from pangu.stack.databases import connected
from pangu.stack.model import Stack
from pangu.stack.programs import mlflow_folder, mlflow_uri
from pangu.storage import read_json, write_json

REVISION = re.compile(r"^revision(?:\s*:[^=]*)?\s*=\s*(.+)$", re.MULTILINE)
BEFORE = re.compile(r"^down_revision(?:\s*:[^=]*)?\s*=\s*(\([^)]*\)|.+)$", re.MULTILINE)
QUOTED = re.compile(r"[\"']([0-9a-zA-Z_]+)[\"']")


def check(stack: Stack, upgrade: bool, say: Callable[[str], None]) -> None:
    """Both databases are as the installed versions want them, or are new; with `upgrade`, older ones are brought up to date.

    One that the installed version itself left half way, because it was killed while it made its tables, is completed without
    being asked.

    Raises:
        UserError: one is older and nobody asked for the upgrade, or one is newer, or the upgrade failed.
    """
    for name, package in (("prefect", "Prefect"), ("mlflow", "MLflow")):
        found, known = revision(stack, name), migrations(name, stack.database is not None)
        newest = heads(known)
        if found is None or found in newest:
            continue
        if found not in known:
            raise UserError(
                f"The database of {package} is of a newer version than {name} {version(name)} (revision {found}); install "
                "the version that it was made with, or restore a backup of before."
            )
        if not upgrade and begun_with(stack).get(name) != version(name):
            keep = "pg_dump" if stack.database is not None else "`pangu backup`"
            raise UserError(
                f"The database of {package} is of an older version (revision {found}, and {name} {version(name)} needs "
                f"{'/'.join(sorted(newest))}); keep a copy with {keep}, then run `pangu up --upgrade`."
            )
        say(f"the database of {package} is brought from revision {found} to {'/'.join(sorted(newest))}")
        if name == "mlflow":  # Prefect's server does it by itself as it starts
            _upgrade_mlflow(stack)
    write_json(path_of(stack), {name: version(name) for name in ("prefect", "mlflow")})


def begun_with(stack: Stack) -> dict[str, str]:
    """The versions that were last let loose on the databases; empty for a new home and one of before this was noted."""
    path = path_of(stack)
    return read_json(path) if path.is_file() else {}


def path_of(stack: Stack) -> Path:
    return stack.home / "stack" / "schema.json"


def revision(stack: Stack, name: str) -> str | None:
    """The revision that the database `prefect` or `mlflow` says of itself; None for one that is empty or not there."""
    statement = "SELECT version_num FROM alembic_version"
    if stack.database is not None:
        with connected(stack, name) as link, link.cursor() as cursor:
            cursor.execute("SELECT to_regclass('public.alembic_version')")
            row = cursor.fetchone()
            if row is None or row[0] is None:
                return None
            cursor.execute(statement)
            row = cursor.fetchone()
            return str(row[0]) if row else None
    path = stack.home / "stack" / name / f"{name}.db"
    if not path.is_file():
        return None
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        try:
            row = database.execute(statement).fetchone()
        except sqlite3.OperationalError:  # no such table
            return None
        return str(row[0]) if row else None


def migrations(name: str, postgresql: bool) -> dict[str, set[str]]:
    """Every revision that the installed package knows, with those right before it."""
    folder = _package(name)
    if name == "prefect":
        folder = folder / "server/database/_migrations/versions" / ("postgresql" if postgresql else "sqlite")
    else:
        folder = folder / "store/db_migrations/versions"
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        mine = REVISION.search(text)
        if mine and (names := QUOTED.findall(mine[1])):
            before = BEFORE.search(text)
            found[names[0]] = set(QUOTED.findall(before[1])) if before else set()
    return found


def heads(known: dict[str, set[str]]) -> set[str]:
    """The revisions that none follows."""
    return known.keys() - {before for several in known.values() for before in several}


def _package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def _upgrade_mlflow(stack: Stack) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", mlflow_uri(stack)]
    environment = {**os.environ, **stack.environment(), "PGPASSFILE": str(stack.passfile)}
    done = subprocess.run(command, cwd=mlflow_folder(stack), env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"MLflow's database could not be upgraded: {' '.join(done.stderr.split())[-300:]}")
