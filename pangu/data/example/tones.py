"""The skin tones of an emoji, and lists with fewer of them: five variants of each person would be most of any list."""

from collections.abc import Iterable

SKIN_TONES = range(0x1F3FB, 0x1F400)
APART = 2
"""Between the two tones that `few_tones` keeps of a person, from light to dark and round."""


def tones_of(text: str) -> list[int]:
    """0 (light) to 4 (dark) for each person in the emoji that has a tone."""
    return [ord(character) - SKIN_TONES.start for character in text if ord(character) in SKIN_TONES]


def without_tones(text: str) -> str:
    """The emoji with its skin tone modifiers taken away: person, profession or gesture, gender and hair remain."""
    return "".join(character for character in text if ord(character) not in SKIN_TONES)


def few_tones(texts: Iterable[str], shift: int = 0) -> set[str]:
    """The emoji without any tone, and of each person (couple, hand) those in two of the tones that it comes in.

    Number the people in the order of their code points: person n keeps tones n + shift and n + shift + 2, counted round. So each
    tone is kept for as many people as any other, and lists of different shift keep different tones of one person.
    """
    texts, tones = list(texts), dict[str, set[int]]()
    for text in texts:
        tones.setdefault(without_tones(text), set()).update(tones_of(text))
    people = sorted(person for person, found in tones.items() if found)
    kept = {person: _two(sorted(tones[person]), number + shift) for number, person in enumerate(people)}
    return {text for text in texts if kept.get(without_tones(text), set()).issuperset(tones_of(text))}


def _two(found: list[int], number: int) -> set[int]:
    return set(found) if len(found) <= 2 else {found[(number + step) % len(found)] for step in (0, APART)}
