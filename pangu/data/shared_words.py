"""What all captions of a few pictures share: most likely the name of their subject. Pure; knows no rows."""

import re
from collections.abc import Callable, Sequence

LEAST_CAPTIONS, LEAST_HAN = 3, 2
SMALL_HAN = frozenset("的了在向往朝对和与是把被从有个只张幅一这那")
"""The same among Chinese characters."""
_WORD = re.compile(r"[\w'’-]+")
SMALL = frozenset(_WORD.findall("a an the of in on at to with and or is are my our this that some one"))
"""English words that name nothing by themselves."""


def shared_words(captions: Sequence[str], language: str) -> str | None:
    """The longest run of words (of characters in Chinese) that is in every caption, the first of several; None if there is none.

    language: 'en' or 'zh'. Small words at either end of it do not belong to it, and fewer than three captions share nothing.
    """
    if len(captions) < LEAST_CAPTIONS:
        return None
    if language == "zh":
        found = _bare(_longest([list(caption) for caption in captions], str.isalnum), SMALL_HAN)
        return "".join(found) if len(found) >= LEAST_HAN else None
    found = _bare(_longest([_WORD.findall(caption.lower()) for caption in captions], lambda word: True), SMALL)
    return _as_written(found, captions[0]) if found else None


def _bare(run: list[str], small: frozenset[str]) -> list[str]:
    large = [place for place, word in enumerate(run) if word not in small]
    return run[large[0] : large[-1] + 1] if large else []


def _longest(texts: Sequence[Sequence[str]], may: Callable[[str], bool]) -> list[str]:
    first = list(texts[0])
    for length in range(min(map(len, texts)), 0, -1):
        for begin in range(len(first) - length + 1):
            run = first[begin : begin + length]
            if all(map(may, run)) and all(_holds(text, run) for text in texts[1:]):
                return run
    return []


def _holds(text: Sequence[str], run: Sequence[str]) -> bool:
    return any(list(text[place : place + len(run)]) == run for place in range(len(text) - len(run) + 1))


def _as_written(run: Sequence[str], caption: str) -> str:
    """With the capitals of the first caption."""
    pattern = r"\W+".join(map(re.escape, run))
    match = re.search(pattern, caption, re.IGNORECASE)
    return match[0] if match else " ".join(run)
