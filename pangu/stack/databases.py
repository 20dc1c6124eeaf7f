"""The databases `prefect` and `mlflow` on a PostgreSQL server: whether it answers, making, dumping and loading them.

The password lies in a file of PostgreSQL's own format (libpq and asyncpg read it), so that it stands in no command line and
no environment.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.errors import UserError
from pangu.stack.binaries import postgres_program
from pangu.stack.model import Database, Stack
from pangu.storage import Home

if TYPE_CHECKING:
    from psycopg2.extensions import connection

NAMES = ("prefect", "mlflow")
OLDEST = (14, 9)
"""What Prefect asks for."""
TIMEOUT_S = 10


def write_passfile(path: Path, database: Database, password: str) -> None:
    """https://www.postgresql.org/docs/15/libpq-pgpass.html"""
    quoted = [str(part).replace("\\", "\\\\").replace(":", "\\:") for part in (database.user, password)]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{database.host}:{database.port}:*:{':'.join(quoted)}\n")


@contextmanager
def connected(stack: Stack, name: str = "postgres") -> Iterator["connection"]:
    """A connection that commits every statement by itself.

    Raises:
        UserError: nobody answers, or the server refuses us.
    """
    import psycopg2

    assert stack.database is not None
    address = stack.database
    try:
        link = psycopg2.connect(
            host=address.host, port=address.port, user=address.user, dbname=name, passfile=str(stack.passfile),
            connect_timeout=TIMEOUT_S,
        )  # fmt: skip
    except psycopg2.OperationalError as error:
        raise UserError(_refusal(address, name, str(error))) from error
    try:
        link.autocommit = True
        yield link
    finally:
        link.close()


def _refusal(address: Database, name: str, why: str) -> str:
    where = f"PostgreSQL at {address.address}"
    if "password authentication failed" in why or "no password supplied" in why:
        return f"{where} refuses the user {address.user} with this password; check PANGU_POSTGRES_URL."
    if "does not exist" in why and name in why:
        return f"{where} has no database {name}; create it: CREATE DATABASE {name} OWNER {address.user}."
    return f"{where} does not answer ({' '.join(why.split())[:160]}); check PANGU_POSTGRES_URL, or start it."


def answers(stack: Stack) -> bool:
    """Whether the server takes our user and runs a statement."""
    try:
        with connected(stack) as link, link.cursor() as cursor:
            cursor.execute("SELECT 1")
    except UserError:
        return False
    return True


def prepare(stack: Stack) -> None:
    """Both databases are there, with what a restored backup brought along.

    Raises:
        UserError: the server is too old, forbids making them, or they hold something else than the backup.
    """
    with connected(stack) as link:
        _check_version(stack, link.server_version)
        with link.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {row[0] for row in cursor.fetchall()}
            for name in NAMES:
                if name not in there:
                    _create(stack, cursor, name)
    for name in NAMES:
        dump = dump_file(Home(stack.home), name)
        if dump.is_file():
            _load(stack, name, dump)
            dump.unlink()


def _check_version(stack: Stack, number: int) -> None:
    """`number` is libpq's: 150018 for 15.18."""
    found = (number // 10000, number % 10000)
    if found < OLDEST:
        assert stack.database is not None
        raise UserError(
            f"PostgreSQL at {stack.database.address} is version {found[0]}.{found[1]}, and Prefect needs "
            f"{OLDEST[0]}.{OLDEST[1]} or newer; upgrade it."
        )


def _create(stack: Stack, cursor: "object", name: str) -> None:
    import psycopg2

    assert stack.database is not None
    try:
        cursor.execute(f"CREATE DATABASE {name}")  # type: ignore[attr-defined]
    except psycopg2.errors.DuplicateDatabase:
        return  # another `up` on the same server was faster
    except psycopg2.Error as error:
        owner = stack.database.user
        raise UserError(
            f"PostgreSQL at {stack.database.address} lets {owner} create no database; let its administrator say: "
            f"CREATE DATABASE {name} OWNER {owner}."
        ) from error


def dump_file(home: Home, name: str) -> Path:
    """Where a restored backup leaves a database until the next `up` loads it."""
    return home.stack / "dumps" / f"{name}.dump"


def dump(stack: Stack, name: str, target: Path) -> None:
    """Write one database, as of one moment, in pg_dump's own format.

    Raises:
        UserError: the server does not answer, or there is no pg_dump that knows it.
    """
    _run(stack, "pg_dump", ["--format=custom", "--no-owner", "--no-privileges", f"--file={target}", name])


def _load(stack: Stack, name: str, source: Path) -> None:
    """All of it, or nothing, into an empty database."""
    with connected(stack, name) as link, link.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        (tables,) = cursor.fetchone() or (0,)
    if tables:
        raise UserError(
            f"The database {name} is not empty, and {source} waits to be loaded into it; delete the file if the "
            "database is to stay as it is, or empty the database."
        )
    arguments = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", f"--dbname={name}"]
    _run(stack, "pg_restore", [*arguments, str(source)])


def _run(stack: Stack, program: str, arguments: list[str]) -> None:
    assert stack.database is not None
    address = stack.database
    server = ["--host", address.host, "--port", str(address.port), "--username", address.user, "--no-password"]
    command = [str(postgres_program(program)), *server, *arguments]
    environment = {**os.environ, "PGPASSFILE": str(stack.passfile)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise UserError(f"{program} failed at {address.address}: {' '.join(done.stderr.split())[:300]}")
