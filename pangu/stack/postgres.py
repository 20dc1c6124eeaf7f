"""A PostgreSQL server of our own, inside the home: its folder, its unprivileged user, its command line."""

import os
import pwd
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pangu.errors import UserError
from pangu.stack.binaries import postgres_program
from pangu.stack.model import LOOPBACK
from pangu.storage import Home

SUPERUSER = "pangu"
SYSTEM_USER = "postgres"
"""Who runs it where we are root: Debian's package makes this user, and PostgreSQL refuses to run as root."""


def data_folder(home: Home) -> Path:
    return home.stack / "postgres" / "data"


def password_of(home: Home) -> str:
    """The superuser's password; made at the first call, kept in a file that only we read."""
    path = home.stack / "postgres_password"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip()


def check(home: Home) -> None:
    """Could the server run here? Looks, and changes nothing.

    Raises:
        UserError: PostgreSQL is not installed, its user can not get there, or the folder is of another version.
    """
    initdb, data, owner = postgres_program("initdb"), data_folder(home), system_user()
    if owner is not None:
        _check_reachable(data.parent, owner)
    if data.is_dir():
        _check_version(data, initdb)


def prepare(home: Home) -> None:
    """Make the server's folder if it is not there; killed half way, the next call begins again.

    Raises:
        UserError: PostgreSQL is not installed, its user can not get there, or the folder is of another version.
    """
    check(home)
    initdb, data, owner = postgres_program("initdb"), data_folder(home), system_user()
    if data.is_dir():
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    if owner is not None:
        os.chown(data.parent, owner.pw_uid, owner.pw_gid)
    unfinished = data.with_name("new")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as passwords:
        passwords.write(password_of(home))
        passwords.flush()
        if owner is not None:
            os.chown(passwords.name, owner.pw_uid, owner.pw_gid)
        command = [str(initdb), "--pgdata", str(unfinished), "--username", SUPERUSER, "--pwfile", passwords.name]
        command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"]
        made = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, **_as(owner))
    if made.returncode != 0:
        raise UserError(f"PostgreSQL's folder {data} could not be made: {' '.join(made.stderr.split())[:300]}")
    unfinished.replace(data)


def command(home: Home, port: int) -> tuple[str, ...]:
    """The server in the foreground, on the loopback interface and without a Unix socket."""
    settings = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": ""}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return (str(postgres_program("postgres")), "-D", str(data_folder(home)), *options)


def system_user() -> pwd.struct_passwd | None:
    """Whom the server runs as where that is not ourselves.

    Raises:
        UserError: we are root, and there is no such user.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise UserError(
            f"PostgreSQL does not run as root, and there is no user {SYSTEM_USER}; Debian: apt install postgresql."
        ) from None


def _as(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _check_reachable(folder: Path, owner: pwd.struct_passwd) -> None:
    """Every folder on the way must let the server's user pass."""
    for step in reversed([place for place in folder.absolute().parents if place.is_dir()]):
        found = step.stat()
        mine = {found.st_uid == owner.pw_uid: stat.S_IXUSR}.get(True, stat.S_IXOTH)
        if not found.st_mode & mine:
            raise UserError(
                f"PostgreSQL runs as the user {owner.pw_name}, whom {step} does not let pass; "
                f"chmod o+x {shlex.quote(str(step))}, or set PANGU_HOME to a folder elsewhere."
            )


def _check_version(data: Path, initdb: Path) -> None:
    made = (data / "PG_VERSION").read_text().strip()
    said = subprocess.run([str(initdb), "--version"], capture_output=True, text=True, check=True).stdout
    found = said.split()[2].split(".")[0]
    if made != found:
        raise UserError(
            f"{data} was made by PostgreSQL {made}, and {found} is installed; install postgresql-{made}, or run pg_upgrade."
        )
