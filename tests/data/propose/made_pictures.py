"""Folders of small drawings, as a user would have them."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from pangu.data.card import Licence
from pangu.data.propose.stage import NewCard, propose, write_proposal
from pangu.storage import Home

MINE = Licence(name="my own")


def drawing(number: int, side: int = 80) -> bytes:
    """A PNG that no other number has."""
    image = Image.new("RGB", (side, side + number % 3), "white")
    ImageDraw.Draw(image).ellipse((2, 2, side // 2 + number, side // 2), fill=(number * 17 % 256, number * 5 % 256, 90))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def say(number: int) -> str:
    return f"a spot of colour {number}"


def pictures(folder: Path, count: int = 10, side: int = 80, caption: Callable[[int], str] | None = say) -> Path:
    """So many drawings, and a caption beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(drawing(number, side))
        if caption is not None:
            (folder / f"{number}.txt").write_text(caption(number), encoding="utf-8")
    return folder


def new_card(place: Path, home: Home, name: str | None = None, **options: object) -> NewCard:
    """`pangu new --yes`, in the working folder."""
    return write_proposal(propose(place, name, home, **options), MINE, home)
