"""PostgreSQL's programs on this machine, wherever its package put them."""

import shutil
from pathlib import Path

from pangu.errors import UserError

DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps every major version in a folder of its own, outside the path."""


def postgres_programs(folder: Path = DEBIAN) -> Path | None:
    """The folder of `postgres`, `initdb` and `pg_dump`: that of the path, else Debian's newest; None if there is none."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(folder.glob("*/bin/initdb"), key=lambda path: _number(path.parts[-3]))
    return versions[-1].parent if versions else None


def postgres_program(name: str) -> Path:
    """One of PostgreSQL's programs.

    Raises:
        UserError: it is not installed.
    """
    folder = postgres_programs()
    if folder is not None and (folder / name).is_file():
        return folder / name
    alone = shutil.which(name)
    if alone:
        return Path(alone)
    package = "postgresql-client" if name.startswith("pg_") else "postgresql"
    raise UserError(f"PostgreSQL's {name} is not installed; Debian: apt install {package}.")


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
