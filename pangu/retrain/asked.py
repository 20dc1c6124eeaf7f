"""What a retraining is asked for: a card, a recipe, steps. Looked through before any server is started."""

import shutil
from pathlib import Path
from typing import Any

from pangu.config import ROLES, Recipe
from pangu.data.card import Card, card_folders, find_card, load_card, recipe_beside
from pangu.data.propose.look import no_captions
from pangu.errors import UserError
from pangu.recipes import recipe as named
from pangu.storage import Home

LEAST_FREE_GIB = 1.0
"""Of the disk of the home; the demo leaves 0.3, and every checkpoint of a larger recipe comes on top."""


READ_THROUGH_BYTES = 64 * 2**20
"""A larger table is read by ingest alone."""


def settings_of(card: str, recipe: str, steps: int | None) -> dict[str, Any]:
    """The form of `retrain-pair` as the dashboard would fill it in.

    Flows run in the project's folder, so a card or a recipe's file is named by its whole path, unless it is one of the project's.

    Raises:
        UserError: there is no such card or recipe, or the recipe trains no pair.
    """
    path = find_card(card)
    recipe = recipe or str(recipe_beside(path) or "demo")
    wanted = named(recipe)
    if not set(ROLES) <= set(wanted.roles):
        raise UserError(f"Recipe '{recipe}' trains no pair; choose another one: `pangu recipes`.")
    is_file = Path(recipe).is_file()
    asked: dict[str, Any] = {"card": _known_to_flows(path)}
    asked |= {"recipe_file": str(Path(recipe).absolute())} if is_file else {"recipe": recipe}
    if steps is not None:
        asked["changes"] = {f"{role}_steps": steps for role in ROLES}
    return asked


def check(card: str, recipe: str, home: Home) -> None:
    """Refuse what would fail behind minutes of work: no captions, fewer pictures than a batch, a full disk.

    recipe: its name or file.

    Raises:
        UserError: one of those, with its remedy.
    """
    free_gib = shutil.disk_usage(_existing(home.root)).free / 2**30
    if free_gib < LEAST_FREE_GIB:
        raise UserError(
            f"Only {free_gib:.1f} GiB of the disk of {home.root} are free, and a retraining needs {LEAST_FREE_GIB:g}; "
            "make room, or name a home on another disk: `export PANGU_HOME=FOLDER`."
        )
    read = load_card(card)
    source = Path(read.source_uri(home))
    if source.is_dir() or (source.is_file() and source.stat().st_size <= READ_THROUGH_BYTES):
        _check_rows(card, read, named(recipe), home)


def _check_rows(card: str, read: Card, recipe: Recipe, home: Home) -> None:
    from pangu.data.captions import LANGUAGES
    from pangu.data.ingest.any_source import read_source

    listed = read_source(read, home)
    texts = zip(*(listed[f"caption_{name}"].to_pylist() for name in LANGUAGES), strict=True)
    captioned = sum(any(own) for own in texts)
    if not captioned and listed.num_rows and not read.describes:
        raise no_captions(read.source_uri(home), listed.num_rows)
    rows = listed.num_rows if read.describes else captioned
    largest = max(job.batch_size for job in recipe.jobs.values())
    if rows < largest:
        raise UserError(
            f"{card} lists {rows} pictures with captions, and recipe '{recipe.name}' takes {largest} at a time; let a recipe "
            f"be proposed that fits: `pangu new {read.source_uri(home)} {read.name} --force`."
        )


def _known_to_flows(path: Path) -> str:
    if path.parent.absolute() == card_folders()[1].absolute():
        return path.stem
    return str(path.absolute())


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
