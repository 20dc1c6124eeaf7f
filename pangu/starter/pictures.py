"""The pictures and captions that the embedded encoders learn from, and the combinations that they never see."""

import numpy as np

from pangu.data.example.openmoji import Emoji, drawing_digest, every_drawing, render_png
from pangu.data.images import decode_rgb

SKIN_TONES = range(0x1F3FB, 0x1F400)
HOLD_OUT_EVERY = 7


def without_tones(text: str) -> str:
    """The emoji with its skin tone modifiers taken away: person, profession or gesture, gender and hair remain."""
    return "".join(character for character in text if ord(character) not in SKIN_TONES)


def split(drawings: list[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """(drawings to learn from, held-out combinations of who and skin tone).

    Number the people that come in one skin tone by their code points and the tones 0 ... 4: a combination is held out if the sum
    of both numbers is a multiple of seven. So each held-out person is seen in four other tones, and each tone on other people.
    """
    tones = {one.text: [ord(c) - SKIN_TONES.start for c in one.text if ord(c) in SKIN_TONES] for one in drawings}
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
    """(N, side, side, 3) uint8 renderings on white; 3,944 of them take about half a minute."""
    return np.stack([decode_rgb(render_png(one, side)).image_hwc for one in drawings])


def learning_material() -> tuple[list[Emoji], list[Emoji]]:
    """`split` of everything that OpenMoji has with names in both languages."""
    return split(every_drawing())
