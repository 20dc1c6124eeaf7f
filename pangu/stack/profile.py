"""Where a home keeps databases, tables and artefacts: in files (laptop), or in PostgreSQL and object storage (server).

Owns the choice, and what is remembered of it in `stack/profile.json`: addresses, never a secret.
"""

import os
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import ValidationError

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json

ProfileName = Literal["laptop", "server"]
POSTGRES_URL, TABLES, ARTIFACTS = "PANGU_POSTGRES_URL", "PANGU_TABLES", "PANGU_ARTIFACTS"
ENDPOINT, REGION = "AWS_ENDPOINT_URL", "AWS_REGION"
POSTGRES_PORT = 5432


class Profile(Frozen):
    """What a home began with and stays with."""

    name: ProfileName = "laptop"
    postgres: str = ""
    """HOST:PORT of a server that others keep; empty: one of our own in the home (server), or SQLite (laptop)."""
    tables: str = ""
    """s3://BUCKET/PREFIX of the dataset tables."""
    artifacts: str = ""
    """s3://BUCKET/PREFIX of MLflow's artefacts."""
    endpoint: str = ""
    """Address of the object storage; empty: AWS's own."""
    region: str = ""

    @property
    def in_object_storage(self) -> tuple[str, ...]:
        return tuple(place for place in (self.tables, self.artifacts) if place)


class Login(Frozen):
    """What `$PANGU_POSTGRES_URL` says. The password is for a file that only we read, and for nothing else."""

    host: str
    port: int
    user: str
    password: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def choose(home: Home, asked: ProfileName | None) -> Profile:
    """The profile to start `home` with: what it began with, or, in a new home, what is asked for; laptop where nothing is.

    Raises:
        UserError: the home began with another one, or the environment lacks what `server` needs.
    """
    known = recorded(home)
    name = asked or (known.name if known else "laptop")
    if known is not None and known.name != name:
        raise UserError(
            f"{home.root} began with the profile {known.name}, and its databases are not those of {name}: start it with "
            f"--profile {known.name}, or set PANGU_HOME to another folder."
        )
    if name == "laptop":
        return Profile()
    found = from_environment(known or Profile(name="server"))
    if known is not None and found != known:
        field = next(name for name in Profile.model_fields if getattr(found, name) != getattr(known, name))
        raise UserError(
            f"{home.root} began with {field} {getattr(known, field) or 'of its own'}, and the environment names "
            f"{getattr(found, field) or 'none'}; set it back, or, if what is there moved along, change {path_of(home)}."
        )
    return found


def as_name(text: str | None) -> ProfileName | None:
    """A profile's name as somebody wrote it.

    Raises:
        UserError: there is none of that name.
    """
    if text not in (None, *get_args(ProfileName)):
        raise UserError(f"There is no profile '{text}'; choose laptop or server.")
    return cast("ProfileName | None", text)


def recorded(home: Home) -> Profile | None:
    """What the home began with; None for one that never was up.

    Raises:
        UserError: the file is broken.
    """
    path = path_of(home)
    if path.is_file():
        try:
            return Profile.model_validate(read_json(path))
        except (ValueError, ValidationError) as error:
            raise UserError(f"{path} is broken; bring it back from a backup of the home.") from error
    # Homes of before profiles: all of them were laptops.
    return Profile() if (home.stack / "mlflow" / "mlflow.db").is_file() else None


def record(home: Home, profile: Profile) -> None:
    if recorded(home) != profile or not path_of(home).is_file():
        write_json(path_of(home), profile.model_dump(mode="json"))


def from_environment(known: Profile) -> Profile:
    """The profile `server` as the environment describes it; what it does not mention stays as it is known.

    Raises:
        UserError: there is no place for tables or artefacts, or it is not in object storage.
    """
    given = login()
    places = {}
    for variable, before in ((TABLES, known.tables), (ARTIFACTS, known.artifacts)):
        place = os.environ.get(variable, "").rstrip("/") or before
        if not place.startswith("s3://") or not urlsplit(place).netloc:
            raise UserError(
                f"The profile server keeps tables and artefacts in object storage, and {variable} is {place or 'not set'}; "
                "set it to s3://BUCKET/PREFIX."
            )
        places[variable] = place
    return Profile(
        name="server",
        postgres=given.address if given else known.postgres,
        tables=places[TABLES],
        artifacts=places[ARTIFACTS],
        endpoint=os.environ.get(ENDPOINT, "").rstrip("/") or known.endpoint,
        region=os.environ.get(REGION, "") or known.region,
    )


def login() -> Login | None:
    """The server that `$PANGU_POSTGRES_URL` names; None if it is not set.

    Raises:
        UserError: it is no such URL. The sentence does not repeat it: it may hold a password.
    """
    text = os.environ.get(POSTGRES_URL, "")
    if not text:
        return None
    try:
        url = urlsplit(text)
        port = url.port or POSTGRES_PORT
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), 0
    complete = url.hostname and url.username and url.password
    if url.scheme not in ("postgresql", "postgres") or not complete or url.path not in ("", "/") or url.query:
        raise UserError(
            f"{POSTGRES_URL} must read postgresql://USER:PASSWORD@HOST:PORT, without a database: "
            "those are called prefect and mlflow."
        )
    user, password = unquote(url.username or ""), unquote(url.password or "")
    return Login(host=url.hostname or "", port=port, user=user, password=password)


def path_of(home: Home) -> Path:
    return home.stack / "profile.json"
