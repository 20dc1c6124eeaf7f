"""`pangu backup` and `pangu restore`: everything that matters of a home in one file, and back.

SQLite databases are copied by SQLite's own online backup and PostgreSQL's by pg_dump, so that a running stack is no hindrance;
what can be made again is left out.
"""

import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.stack import databases
from pangu.stack.model import Stack
from pangu.stack.profile import Profile, recorded
from pangu.storage import Home, sha256_of

LIST = "backup.json"
SQLITE = b"SQLite format 3\x00"
LEFT_OUT = (
    "logs", "fetched", "gate", "stack/stack.json", "stack/lock", "stack/supervisord.conf", "stack/postgres", "stack/dumps",
    "datasets/*/encoded", "datasets/*/raw",
)  # fmt: skip
"""What is made again by itself or from the rest: logs, caches, addresses of a running stack, PostgreSQL's own files (a dump takes
their place), encoded rows, downloads."""
WITH_DOWNLOADS = tuple(name for name in LEFT_OUT if not name.endswith("raw"))


class BackupOutcome(Frozen):
    """A backup that was written or restored."""

    file: str
    files: int
    bytes: int
    elsewhere: tuple[str, ...] = ()
    """What the home knows and this file does not hold: tables and artefacts in object storage."""


def backup(home: Home, target: Path, downloads: bool = False) -> BackupOutcome:
    """Write the home's databases, tables, runs, pairs and settings into the tar file `target`, all of it or nothing.

    downloads: also the raw images, which URLs may no longer bring.

    Raises:
        UserError: there is nothing to keep, the file is there already, or a PostgreSQL database can not be dumped.
    """
    profile = recorded(home) or Profile()
    stack = Stack.require(home) if profile.name == "server" else None
    if target.exists():
        raise UserError(f"{target} is there already; choose another name, a backup never replaces one.")
    files = sorted(worth_keeping(home.root, WITH_DOWNLOADS if downloads else LEFT_OUT))
    if not files:
        raise UserError(f"There is nothing to keep under {home.root}; set PANGU_HOME to the home that is meant.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digests: dict[str, str] = {}
    try:
        with tarfile.open(partial, "w") as archive:
            for path in files:
                name = path.relative_to(home.root).as_posix()
                digests[name] = _add(archive, path, name)
            if stack is not None:
                digests |= _add_dumps(archive, stack)
            _add_bytes(archive, LIST, json.dumps({"files": digests}).encode())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return BackupOutcome(
        file=str(target), files=len(digests), bytes=target.stat().st_size, elsewhere=profile.in_object_storage
    )


def restore(source: Path, home: Home) -> BackupOutcome:
    """Put a backup into an empty home; every file is checked before the home appears. Dumps of PostgreSQL wait for the next
    `up`, which loads them.

    Raises:
        UserError: the home is not empty, its stack is running, or the file is no whole backup.
    """
    stack = Stack.load(home)
    if stack is not None and stack.is_running:
        raise UserError(f"The stack of {home.root} is running; `pangu down` first.")
    if home.root.exists() and any(home.root.iterdir()):
        raise UserError(f"{home.root} is not empty; move it away, a restore never mixes two homes.")
    home.root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.root.parent, prefix=".restoring-") as scratch:
        folder = Path(scratch) / "home"
        files = _unpack(source, folder)
        if home.root.exists():
            home.root.rmdir()
        folder.replace(home.root)
    elsewhere = (recorded(home) or Profile()).in_object_storage
    return BackupOutcome(file=str(source), files=files, bytes=source.stat().st_size, elsewhere=elsewhere)


def worth_keeping(root: Path, left_out: tuple[str, ...]) -> Iterator[Path]:
    """Regular files below `root` that no pattern leaves out; never a socket, a link, or the journal of a database."""
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name.endswith(("-wal", "-shm", ".tmp")):
            continue
        name = PurePosixPath(path.relative_to(root).as_posix())
        if not any(name.match(pattern) or any(part.match(pattern) for part in name.parents) for pattern in left_out):
            yield path


def _add_dumps(archive: tarfile.TarFile, stack: Stack) -> dict[str, str]:
    """Add a dump of each PostgreSQL database, at the place where `up` looks for it; returns their SHA-256."""
    home, digests = Home(stack.home), {}
    with tempfile.TemporaryDirectory() as scratch:
        for database in databases.NAMES:
            copy = databases.dump_file(Home(Path(scratch)), database)
            copy.parent.mkdir(parents=True, exist_ok=True)
            databases.dump(stack, database, copy)
            name = databases.dump_file(home, database).relative_to(home.root).as_posix()
            digests[name] = _add_plain(archive, copy, name)
    return digests


def _add(archive: tarfile.TarFile, path: Path, name: str) -> str:
    """Add one file, a database as of one moment; returns its SHA-256."""
    with path.open("rb") as file:
        is_database = file.read(len(SQLITE)) == SQLITE
    if not is_database:
        return _add_plain(archive, path, name)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.db"
        before, after = sqlite3.connect(path), sqlite3.connect(copy)
        try:
            before.backup(after)
        finally:
            before.close()
            after.close()
        copy.chmod(path.stat().st_mode)
        return _add_plain(archive, copy, name)


def _add_plain(archive: tarfile.TarFile, path: Path, name: str) -> str:
    digest = sha256_of(path)
    archive.add(path, name, recursive=False)
    return digest


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _unpack(source: Path, folder: Path) -> int:
    """Unpack into a new folder and compare every file with the list; returns how many there are."""
    try:
        with tarfile.open(source, "r") as archive:
            archive.extractall(folder, filter="data")
        listed: dict[str, str] = json.loads((folder / LIST).read_text())["files"]
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise UserError(f"{source} is no whole backup ({error}); `pangu backup` writes one.") from error
    (folder / LIST).unlink()
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if different := sorted(found ^ listed.keys()):
        raise UserError(f"{source} is no whole backup: {different[0]} is missing or was added.")
    for name, digest in listed.items():
        if sha256_of(folder / name) != digest:
            raise UserError(f"{source} is no whole backup: {name} was changed.")
    return len(listed)
