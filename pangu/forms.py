"""How a deployment's form is filled in: a few fields stand open, the others lie under `more`; and what that means flat.

Flows, commands and stored schedules name settings flat (`{"card": ..., "changes": {...}}`). The dashboard's form has a list of
cards (`card_name`), a file in its place (`card_file`), and everything but the first few fields under `more`. Whatever it folds is
a list of at most one group (`"more": [{"changes": [{...}]}]`), because that is what Prefect draws as a button.
"""

from collections.abc import Mapping
from typing import Any

MORE, CARD_NAME, CARD_FILE = "more", "card_name", "card_file"


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what lies under `more` beside the rest, and the card in one field; what is empty is left out.

    What the form shows goes before what it does not: a run that is copied in the dashboard keeps hidden fields.
    """
    found = _opened(settings)
    more = found.pop(MORE, None)
    found |= _opened(more) if isinstance(more, Mapping) else {MORE: more}
    found = {name: value for name, value in found.items() if value is not None and value != ""}
    named, file = found.pop(CARD_NAME, None), found.pop(CARD_FILE, None)
    if card := file or named:
        found["card"] = card
    return found


def _opened(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group with the groups that its folded ones hold; None where nobody has opened one."""
    return {name: (value or [None])[0] if _is_folded(value) else value for name, value in group.items()}


def _is_folded(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 1 and all(isinstance(one, Mapping) for one in value)


def folded(settings: Mapping[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings as the form with this JSON schema would send them; fields that it does not have stay where they are."""
    shown, hidden = form.get("properties", {}), hidden_fields(form)
    open_: dict[str, Any] = dict(settings)
    more: dict[str, Any] = {}
    if CARD_NAME in shown and "card" in open_:
        card = open_.pop("card")
        is_listed = card in shown[CARD_NAME].get("enum", [card])
        (open_ if is_listed else more)[CARD_NAME if is_listed else CARD_FILE] = card
    for name in [name for name in settings if name in hidden and name not in shown]:
        value = open_.pop(name)
        more[name] = [value] if hidden[name].get("maxItems") == 1 else value
    return open_ | ({MORE: [more]} if more else {})


def hidden_fields(form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under `more`, with their schemas."""
    found: dict[str, Any] = form.get("properties", {}).get(MORE, {}).get("items", {}).get("properties", {})
    return found


def known_fields(form: Mapping[str, Any]) -> set[str]:
    """Every name that the form takes, shown, folded or of before."""
    former = (pattern.strip("^$") for pattern in form.get("patternProperties", {}))
    return {*form.get("properties", {}), *hidden_fields(form), *former}
