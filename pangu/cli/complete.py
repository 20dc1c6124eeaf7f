"""What the shell proposes behind a command: names of cards, recipes, datasets and runs. Only folders are listed."""

from collections.abc import Callable, Iterable
from pathlib import Path

from pangu import names
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


def ingests(incomplete: str) -> list[str]:
    """Ingests of all datasets of the home."""
    return _ids(incomplete, names.ingests)


def encodings(incomplete: str) -> list[str]:
    """Encoded datasets of all datasets of the home."""
    return _ids(incomplete, names.encodings)


def pairs(incomplete: str) -> list[str]:
    """Pairs of the home."""
    return _beginning(incomplete, [names.LATEST, *(pair.id for pair in names.pairs(Home.from_environment()))])


def versions(incomplete: str) -> list[str]:
    """Versions of all local datasets of the home."""
    logs = Home.from_environment().root.glob("datasets/*/table/_delta_log/*.json")
    return _beginning(incomplete, [names.LATEST, *(str(int(log.stem)) for log in logs if log.stem.isdecimal())])


def _ids(incomplete: str, of: Callable[[Home, str], list[names.Named]]) -> list[str]:
    home = Home.from_environment()
    datasets = _folders(home.root / "datasets")
    return _beginning(incomplete, [names.LATEST, *(one.id for dataset in datasets for one in of(home, dataset))])


def _folders(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.is_dir()] if place.is_dir() else []


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
