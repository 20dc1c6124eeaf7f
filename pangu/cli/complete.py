"""What the shell proposes behind a command: names of cards, recipes, datasets and runs. Only folders are listed."""

from collections.abc import Iterable
from pathlib import Path

from pangu.storage import Home


def cards(incomplete: str) -> list[str]:
    """Cards of `datasets/`, by name."""
    from pangu.data.card import card_folders

    return _beginning(incomplete, (card.stem for folder in card_folders() for card in folder.glob("*.yaml")))


def recipes(incomplete: str) -> list[str]:
    """Named recipes, and those that lie beside cards."""
    from pangu.data.card import card_folders
    from pangu.recipes import RECIPES

    return _beginning(incomplete, [*RECIPES, *map(str, card_folders()[0].glob("*.recipe.json"))])


def datasets(incomplete: str) -> list[str]:
    """Datasets of the home."""
    return _beginning(incomplete, _folders(Home.from_environment().root / "datasets"))


def runs(incomplete: str) -> list[str]:
    """Training runs of the home."""
    return _beginning(incomplete, _folders(Home.from_environment().root / "runs"))


def _folders(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.is_dir()] if place.is_dir() else []


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
