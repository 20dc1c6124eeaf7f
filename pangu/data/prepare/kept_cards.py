"""The card behind each version of a dataset, kept in the home: files of cards move and change."""

from pangu.data.card import Card, card_from, load_card
from pangu.data.table.versions import VersionEntry
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json


def keep_card(card: Card, home: Home) -> None:
    """Keep a card under its digest, which the log of the version remembers."""
    path = home.dataset(card.name) / "cards" / f"{card.digest()}.json"
    if not path.is_file():
        write_json(path, {"folder": str(card.folder), "card": card.model_dump(mode="json")})


def card_of(home: Home, name: str, entry: VersionEntry) -> Card:
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
