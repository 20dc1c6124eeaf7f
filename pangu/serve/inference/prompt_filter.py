"""The deny list of prompts: words that a server's owner does not want drawn. A switch, and no judge of meaning."""

import unicodedata
from collections.abc import Iterable, Iterator

from pangu.serve.inference.messages import Job

PREFIX = 3
"""Letters by which the list is looked up; words of one beginning are told apart by their lengths."""


def plain(text: str) -> str:
    """Text as it is compared: compatibility forms unified, case and accents removed, white space single."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return " ".join("".join(sign for sign in apart if not unicodedata.combining(sign)).split())


class DenyList:
    """A list of words, indexed once: a prompt is read once, however long the list is."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words: dict[str, tuple[int, str]] = {}
        self._lengths: dict[str, set[int]] = {}
        for place, word in enumerate(words):
            if asked := plain(word):
                self._words.setdefault(asked, (place, word))
                self._lengths.setdefault(asked[:PREFIX], set()).add(len(asked))
        self._starts = {asked[0] for asked in self._words}

    def first_in(self, job: Job) -> str | None:
        """The first word that a prompt of the request holds: a whole word in alphabets, anywhere in scripts without spaces."""
        texts = [plain(text) for text in (job.prompt, job.texture.prompt) if text]
        found = [self._words[asked] for text in texts for asked in self._found(text)]
        return min(found)[1] if found else None

    def _found(self, text: str) -> Iterator[str]:
        for start, sign in enumerate(text):
            if sign not in self._starts:
                continue
            for size in range(1, PREFIX + 1):
                for length in self._lengths.get(text[start : start + size], ()):
                    asked = text[start : start + length]
                    if asked in self._words and (not asked.isascii() or _stands_alone(text, start, start + length)):
                        yield asked


def _stands_alone(text: str, start: int, stop: int) -> bool:
    """Whether neither neighbour of text[start:stop] is a letter, digit or underscore."""
    return not (_is_letter(text[start - 1 : start]) or _is_letter(text[stop : stop + 1]))


def _is_letter(sign: str) -> bool:
    return sign.isalnum() or sign == "_"
