"""The card in a form: a list of those that exist, and a file for one that lies elsewhere."""

from pathlib import PurePath
from typing import Annotated, Any, ClassVar

from pydantic import Field

from flows.form import Form
from pangu.data.card import listed_cards
from pangu.forms import CARD_FILE, CARD_NAME

Card = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        title="Dataset card",
        description="The pictures: a card of datasets/ (`pangu new` makes one of a folder of yours)",
    ),
]
DEFAULT = "openmoji"


class CardForm(Form):
    """A form about one card. In Python it is one field, a name or a path; schedules of before fill that in."""

    shown: ClassVar[tuple[str, ...]] = (CARD_NAME,)
    verb: ClassVar[str] = ""
    """What is done with the card."""

    card: Card = DEFAULT

    @property
    def deed(self) -> str:
        return f"{self.verb} {PurePath(self.card).stem}"

    @classmethod
    def drawn(cls, fields: dict[str, Any]) -> dict[str, Any]:
        card, *rest = fields.items()
        return {CARD_NAME: _choice(card[1]), **dict(rest), CARD_FILE: _file(card[1])}

    @classmethod
    def former(cls) -> dict[str, Any]:
        return {"^card$": {"type": "string", "minLength": 1, "maxLength": 500}}


def _choice(card: dict[str, Any]) -> dict[str, Any]:
    names = listed_cards()
    if not names:
        return card
    return {**card, "enum": names, "default": DEFAULT if DEFAULT in names else names[0]}


def _file(card: dict[str, Any]) -> dict[str, Any]:
    words = "Path of a card that is not in the list: a YAML file; it goes before the list"
    return {**card, "title": "Another card's file", "description": words, "pattern": r"^$|\.ya?ml$"}
