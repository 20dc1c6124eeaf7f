"""A card with other thresholds than its file says: from FILTER=VALUE, as a command line or a page gives them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from pangu.data.card import Card, card_from, load_card
from pangu.data.prepare.kept_cards import card_of
from pangu.data.table.versions import entry_of
from pangu.errors import UserError
from pangu.storage import Home


def changed_card(home: Home, card: str, version_of: Callable[[str], int], changes: Sequence[str]) -> tuple[Card, int]:
    """(the card to select by, the version to select from).

    Args:
        card: a card; with changes also a dataset, whose version's own card is changed.
        version_of: from the dataset's name to the version.

    Raises:
        UserError: no such card, a change that is none, an unknown filter, or a value out of its bounds.
    """
    if changes and (home.root / "datasets" / card).is_dir() and card == card.strip("/."):
        version = version_of(card)
        base = card_of(home, card, entry_of(home, card, version))
    else:
        base = load_card(card)
        version = version_of(base.name)
    return with_filters(base, parsed(changes)), version


def parsed(changes: Sequence[str]) -> dict[str, Any]:
    """FILTER=VALUE as a mapping; values as YAML has them, so `null` takes a threshold away.

    Raises:
        UserError: one is not of this form.
    """
    found = {}
    for change in changes:
        name, sign, value = change.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            sign = ""
        if not sign or not name.strip():
            raise UserError(f"--set {change} is no FILTER=VALUE, as max_aspect=2 or near_duplicates.max_bits=4.")
    return found


def with_filters(card: Card, changes: Mapping[str, Any]) -> Card:
    """The same card with some filters changed; a dot goes into an inner one, which is made where there is none.

    Raises:
        UserError: an unknown filter, or a value out of its bounds.
    """
    content = card.model_dump(mode="json")
    filters = content["filters"]
    for name, value in changes.items():
        outer, dot, inner = name.partition(".")
        if dot:
            filters[outer] = {**(filters.get(outer) or {}), inner: value}
        else:
            filters[outer] = value
    return card_from(content, card.folder, f"of '{card.name}' with these changes")
