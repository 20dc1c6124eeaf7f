"""What stands below the servers: PostgreSQL and object storage, where the profile has them, and databases of the right version.

Owns the order of these checks.
"""

from collections.abc import Callable

from pangu.errors import UserError
from pangu.stack import database_schema, databases, object_storage, postgres
from pangu.stack.model import LOOPBACK, Database, Stack
from pangu.stack.profile import POSTGRES_URL, Profile, login, record
from pangu.storage import Home


def database_of(profile: Profile, own_port: int | None) -> Database | None:
    """Which PostgreSQL the stack uses: the one that the environment names, or its own at `own_port`; None for a laptop.

    Raises:
        UserError: the home's databases are on a server of others, and the environment does not say how to get in.
    """
    if profile.name == "laptop":
        return None
    if not profile.postgres:
        assert own_port is not None
        return Database(host=LOOPBACK, port=own_port, user=postgres.SUPERUSER, own=True)
    given = login()
    if given is None:
        raise UserError(f"The databases are at {profile.postgres}; set {POSTGRES_URL}, whose password is kept nowhere.")
    return Database(host=given.host, port=given.port, user=given.user, own=False)


def lay(stack: Stack, upgrade: bool, say: Callable[[str], None]) -> None:
    """Before anything starts: everything that can be looked at is looked at, and only then the home is this profile's.

    Raises:
        UserError: whatever is missing, with its remedy.
    """
    home = Home(stack.home)
    if stack.database is not None:
        if stack.database.own:
            password = postgres.password_of(home)
            postgres.prepare(home)
        else:
            given = login()
            assert given is not None
            password = given.password
        databases.write_passfile(stack.passfile, stack.database, password)
        if not stack.database.own:
            with databases.connected(stack):
                pass
        object_storage.check(stack.profile)
    else:
        database_schema.check(stack, upgrade, say)
    record(home, stack.profile)


def open_databases(stack: Stack, upgrade: bool, say: Callable[[str], None]) -> None:
    """Behind PostgreSQL's start: both databases are there and of the right version.

    Raises:
        UserError: see `databases.prepare` and `database_schema.check`.
    """
    databases.prepare(stack)
    database_schema.check(stack, upgrade, say)
