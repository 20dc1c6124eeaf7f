"""From what a person calls a thing to its id: the id, a beginning of it, a name, or `latest`; and what a home has."""

import contextlib
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pangu.errors import UserError
from pangu.storage import Home, read_json

LATEST = "latest"
MOST_SHOWN = 6
"""Candidates that a sentence lists."""


@dataclass(frozen=True)
class Named:
    """A thing with an id, and what else a person may call it, e.g. the role of a run. age: larger is newer."""

    id: str
    names: tuple[str, ...] = ()
    age: float = 0.0


def resolve(asked: str, things: Sequence[Named], kind: str, remedy: str) -> str:
    """The id of the one thing that `asked` means.

    In this order: an id, `latest`, a name that one thing alone has, a beginning of ids that one thing alone has.

    Args:
        kind: what the things are, e.g. "encoded dataset"; remedy: the command that makes one, for where there is none.

    Raises:
        UserError: nothing, or more than one thing, is meant; lists the candidates, newest or nearest first.
    """
    if any(thing.id == asked for thing in things):
        return asked
    newest = sorted(things, key=lambda thing: (-thing.age, thing.id))
    if not newest:
        raise UserError(f"There is no {kind} yet; make one: `{remedy}`.")
    if asked == LATEST:
        return newest[0].id
    for meant in (
        [thing.id for thing in newest if asked in thing.names],
        [thing.id for thing in newest if asked and thing.id.startswith(asked)],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise UserError(f"'{asked}' may mean {len(meant)} {kind}s; name one of {_shown(meant)}, or {LATEST}.")
    known = nearest(asked, [thing.id for thing in newest])
    raise UserError(f"There is no {kind} '{asked}'; name {LATEST} or one of {_shown(known)}.")


def nearest(asked: str, known: Sequence[str]) -> list[str]:
    """Those that are written most like `asked`, nearest first; all in their order where none is like it."""
    return difflib.get_close_matches(asked, known, MOST_SHOWN, cutoff=0.5) or list(known)


def _shown(ids: Iterable[str]) -> str:
    listed = list(ids)
    more = len(listed) - MOST_SHOWN
    return ", ".join(listed[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def ingests(home: Home, dataset: str) -> list[Named]:
    """Finished ingests of a dataset."""
    return _made(home.dataset(dataset).glob("raw/*/outcome.json"))


def encodings(home: Home, dataset: str) -> list[Named]:
    """Finished encoded datasets of a dataset."""
    return _made(home.dataset(dataset).glob("encoded/*/manifest.json"))


def pairs(home: Home) -> list[Named]:
    """Pair folders of the home, those that were imported included."""
    return _made((home.root / "pairs").glob("*/model_index.json"))


def runs(home: Home, role: str | None = None, finished: bool = False) -> list[Named]:
    """Training runs of the home, each also called by its role; role: those of one alone."""
    found = []
    for run in _made((home.root / "runs").glob("*/outcome.json" if finished else "*/job.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            own = str(read_json(home.run(run.id) / "job.json")["role"])
            if role in (None, own):
                found.append(Named(run.id, (own,), run.age))
    return found


def _made(files: Iterable[Path]) -> list[Named]:
    """Folders by a file that each holds when it is finished."""
    found = []
    for file in files:
        with contextlib.suppress(OSError):  # it went meanwhile
            found.append(Named(file.parent.name, age=file.stat().st_mtime))
    return found
