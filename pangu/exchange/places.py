"""What a user names as a pair or as one half of it: a folder, what it is called in the home, a run, or a registered pair."""

from pathlib import Path
from typing import get_args

from pangu.config import Role
from pangu.errors import UserError
from pangu.names import pairs, resolve, runs
from pangu.storage import Home

GENERATOR = "generator"
"""Where a run keeps its finished generator."""


def pair_folder(source: str | Path, home: Home, others: str = "") -> Path:
    """The folder of a pair: a path, what it is called in the home, or models:/pangu-pair@ALIAS.

    others: what else the caller takes.

    Raises:
        UserError: there is none.
    """
    found = _pair(str(source), home)
    if found is not None:
        return found
    known = pairs(home)
    if known and _is_word(source):
        return home.pair(resolve(str(source), known, "pair", "pangu evaluate"))
    raise UserError(f"There is no pair folder at {source}; name one, or {others}a pair in {home.root / 'pairs'}.")


def generator_folder(source: str | Path, role: Role | None, home: Home) -> Path:
    """The folder of one generator: a path, the half of a pair by the pair's id, or that of a run by what it is called.

    role: of the half, and of the runs that `latest` looks at; None: whatever generator a run has made, and no half of a pair.

    Raises:
        UserError: there is none.
    """
    run = home.run(str(source)) / GENERATOR if "/" not in str(source) else None
    pair = _pair(str(source), home) if role else None
    if pair is not None and role:
        return pair / role
    if run is not None and (run / "config.json").is_file():
        return run
    if Path(source).is_dir():
        return Path(source)
    known = runs(home, role, finished=True)
    if known and _is_word(source):
        return home.run(resolve(str(source), known, f"{role} run" if role else "run", "pangu train")) / GENERATOR
    raise UserError(f"There is no generator {source}; name its folder, a pair or a run.")


def role_of(text: str) -> Role:
    """Raises UserError for what is no role."""
    if text not in get_args(Role):
        raise UserError(f"'{text}' is no role; use structure or texture.")
    role: Role = text  # type: ignore[assignment]
    return role


def _is_word(source: str | Path) -> bool:
    """Whether it may be an id, a name or `latest`, and is no path."""
    return "/" not in str(source) and not str(source).startswith(".")


def _pair(source: str, home: Home) -> Path | None:
    if source.startswith("models:/"):
        from pangu.registry.fetch import registered_pair

        return registered_pair(source, home.root / "fetched")
    path = Path(source).expanduser()
    named = [path] if "/" in source or source.startswith(".") else [path, home.pair(source)]
    return next((folder for folder in named if (folder / "model_index.json").is_file()), None)
