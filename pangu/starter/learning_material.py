"""The pictures and captions that the embedded encoders learn from, and the combinations that they never see."""

from pathlib import Path

import numpy as np

from pangu.data.example import layers
from pangu.data.example.artists import ARTISTS, with_artists
from pangu.data.example.openmoji import Emoji, drawing_digest, every_drawing, render_png
from pangu.data.example.tones import tones_of, without_tones
from pangu.data.images import decode_rgb
from pangu.errors import UserError

HOLD_OUT_EVERY = 7
INKED, LEAST_INK = 245, 0.02
"""What is darker than this is drawn; what is drawn of a page that is not blank. Some drawings are lines and no colours."""


def split(drawings: list[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """(drawings to learn from, held-out combinations of who and skin tone).

    Number the people that come in one skin tone by their code points and the tones 0 ... 4: a combination is held out if the sum
    of both numbers is a multiple of seven. So each held-out person is seen in four other tones, and each tone on other people.
    A combination is held out in every style.
    """
    tones = {one.text: tones_of(one.text) for one in drawings}
    people = sorted({without_tones(text) for text, found in tones.items() if len(found) == 1})
    number = {person: index for index, person in enumerate(people)}

    def held_out(one: Emoji) -> bool:
        found = tones[one.text]
        return len(found) == 1 and (number[without_tones(one.text)] + found[0]) % HOLD_OUT_EVERY == 0

    return [one for one in drawings if not held_out(one)], [one for one in drawings if held_out(one)]


def unseen() -> list[Emoji]:
    """The held-out combinations whose drawing is not also that of a trained one (some are drawn alike for every gender)."""
    trained, held_out = learning_material()
    known = {drawing_digest(one) for one in trained}
    return [one for one in held_out if drawing_digest(one) not in known]


def pixels(drawings: list[Emoji], side: int) -> np.ndarray:
    """(N, side, side, 3) uint8 renderings on white; 3,944 of them take about half a minute, whoever drew them."""
    return np.stack([decode_rgb(render_png(one, side)).image_hwc for one in drawings])


def learning_material(packages: Path | None = None) -> tuple[list[Emoji], list[Emoji]]:
    """`split` of everything that OpenMoji has with names in both languages, and that the artists in `packages` have of it.

    packages: the `node_modules` folder of `pangu.data.example.artists`; None: OpenMoji's drawings alone, without keywords.
    """
    return split(every_drawing() if packages is None else with_artists(every_drawing(), packages))


def material(packages: Path | None = None) -> list[Emoji]:
    """What may be learnt from: the drawings of `learning_material` in every style, none of them of a held-out combination."""
    return learning_material(packages)[0]


def openmoji_alone(drawings: list[Emoji]) -> list[Emoji]:
    """Without those of other artists."""
    return [one for one in drawings if one.style is None]


def drawn_in(style: str, packages: Path | None, side: int) -> tuple[list[Emoji], np.ndarray]:
    """What may be learnt from in one style: (drawings, their pixels (N, side, side, 3) uint8), without blank pages.

    style: of OpenMoji's layers, or an artist in `packages`.

    Raises:
        UserError: there is no such style, or an artist's package is not there.
    """
    if style in layers.STYLES:
        found = layers.in_style(material(), style)
    elif style in ARTISTS and packages is not None:
        found = [one for one in material(packages) if one.style == style]
    else:
        raise UserError(
            f"A style is one of {', '.join(layers.STYLES)}, or with --artists one of {', '.join(ARTISTS)}, not '{style}'."
        )
    images = pixels(found, side)
    shown = (images.min(-1) < INKED).mean((1, 2)) > LEAST_INK
    return [one for one, seen in zip(found, shown, strict=True) if seen], images[shown]
