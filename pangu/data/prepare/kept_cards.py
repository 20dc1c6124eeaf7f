"""The card behind each version of a dataset, kept in the home: files of cards move and change."""

from contextlib import suppress
from typing import TYPE_CHECKING

from pangu.data.card import Card, Licence, card_from, load_card
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json

if TYPE_CHECKING:
    from pangu.data.table.versions import VersionEntry


def keep_card(card: Card, home: Home) -> None:
    """Keep a card under its digest, which the log of the version remembers."""
    path = home.dataset(card.name) / "cards" / f"{card.digest()}.json"
    if not path.is_file():
        write_json(path, {"folder": str(card.folder), "card": card.model_dump(mode="json")})


def card_of(home: Home, name: str, entry: "VersionEntry") -> Card:
    """The card that a version was made by.

    Raises:
        UserError: it was not kept, and the one of this name in `datasets/` is another.
    """
    digest = entry.facts.get("card", "")
    path = home.dataset(name) / "cards" / f"{digest}.json"
    if path.is_file():
        kept = read_json(path)
        return card_from(kept["card"], kept["folder"], path)
    try:
        found = load_card(name)
    except UserError:
        found = None
    if found is None or found.digest() != digest:
        raise UserError(
            f"The card that made version {entry.version} of '{name}' is not here; run `pangu dataset refilter CARD` with it."
        )
    return found


def licence_of_version(home: Home, name: str, version: int) -> Licence | None:
    """That of the card which made a version, or of the card of that name in `datasets/`; None where there is neither."""
    if version >= 0 and home.dataset(name).is_dir():  # contracts of before datasets had versions say -1
        from pangu.data.table.versions import entry_of  # reads the table: an extra, that a server or a push needs not

        with suppress(UserError):
            return card_of(home, name, entry_of(home, name, version)).licence
    try:
        return load_card(name).licence
    except UserError:
        return None
