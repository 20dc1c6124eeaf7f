"""Texts for drawings as people might write them, at random: templates, keywords, and words around them that mean nothing."""

import re
from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from pydoc_data import topics

import numpy as np
import torch
from torch import Tensor

from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.data.wording import chosen
from pangu.models.text import styled_caption
from pangu.sentences import ALL_TEMPLATES, STYLES, UNTRAINED_TEMPLATES
from pangu.starter.spare_styles import SPARE_STYLES

KEYWORD_SHARE, TEMPLATE_SHARE, SPARE_SHARE = 0.3, 0.6, 0.15
FOREIGN = ("de", "fr", "es", "it", "nl", "sv", "pt", "fi", "pl")
"""Languages whose function words are fillers of English sentences."""
CONSONANTS, VOWELS, ENDINGS = "bcdfghjklmnprstvwz", "aeiou", ("", "n", "s", "t", "r", "ing", "ed", "ly")


def caption(one: Emoji, language: str) -> str:
    return str(getattr(one, f"caption_{language}"))


def keywords(one: Emoji, language: str) -> Sequence[str]:
    words: Sequence[str] = getattr(one, f"keywords_{language}")
    return words


def styled(text: str, prefix: str) -> str:
    """`text` behind a style's prefix; "": as it is."""
    return styled_caption(text, prefix) if prefix else text


class Fillers:
    """Words that no drawing is called by, for the tower to learn to pass over.

    English: function words of English and of other languages, and words made up of syllables. Chinese: function words, and
    common characters (GB 2312, level 1) that no caption has.
    """

    def __init__(self, drawings: Sequence[Emoji]) -> None:
        from stopwordsiso import stopwords

        texts = {
            language: {text.lower() for one in drawings for text in (caption(one, language), *keywords(one, language))}
            for language in LANGUAGES
        }
        words, characters = set(" ".join(texts["en"]).split()), set("".join(texts["zh"]))
        self._en = sorted(word for word in stopwords("en") if word.isalpha() and word not in words)
        self._foreign = sorted(
            {
                word
                for language in FOREIGN
                for word in stopwords(language)
                if word.isascii() and word.isalpha() and len(word) > 2 and word not in words
            }
        )
        self._zh = sorted(
            word for word in stopwords("zh") if word not in texts["zh"] and word.isalpha() and not word.isascii()
        )
        known = words | set(_words_of(" ".join(UNTRAINED_TEMPLATES["en"])))
        self._strange = sorted(set(_words_of(" ".join(topics.topics.values()))) - known)
        self._unknown = [one for one in _common_characters() if one not in characters]
        self._known = [one for one in _common_characters() if one in characters]

    def draw(self, language: str, random: np.random.Generator) -> str:
        """One filler."""
        chance = random.random()
        if chance < (0.8 if language == "en" else 0.5):
            return self.function_word(language, random)
        if language == "en":
            return _made_up(random)
        if chance < 0.9:
            return "".join(_pick(self._unknown, random) for _ in range(int(random.integers(1, 3))))
        return _pick(self._unknown, random) + _pick(self._known, random)

    def name(self, language: str, random: np.random.Generator) -> str:
        """Of something that no drawing shows: a word or two made up of syllables, or Chinese characters, one of them unknown."""
        if language == "en":
            return " ".join(_made_up(random) for _ in range(1 + (random.random() < 0.15)))
        characters = [_pick(self._unknown, random)]
        for _ in range(int(random.integers(1, 3))):
            characters.append(_pick(self._known if random.random() < 0.5 else self._unknown, random))
        return "".join(characters[place] for place in random.permutation(len(characters)))

    def strange_word(self, language: str, random: np.random.Generator) -> str:
        """One that no drawing is called by; English ones are those of Python's own documentation."""
        if language == "en":
            return _pick(self._strange, random)
        return "".join(_pick(self._unknown, random) for _ in range(int(random.integers(1, 3))))

    def function_word(self, language: str, random: np.random.Generator) -> str:
        """One that names nothing by itself."""
        if language == "zh":
            return _pick(self._zh, random)
        return _pick(self._en if random.random() < 0.7 else self._foreign, random)


class Wordings:
    """Texts for drawings, and which other drawings each text would suit as well.

    filler_share: of the texts that stand among fillers; most_fillers: around one text.
    """

    def __init__(self, drawings: Sequence[Emoji], seed: int, filler_share: float, most_fillers: int) -> None:
        self._drawings, self._random = drawings, np.random.default_rng(seed)
        self._filler_share, self._most = filler_share, most_fillers
        self._fillers = Fillers(drawings)

    def prefix(self, row: int) -> str:
        """The prefix of the drawing's style; some of OpenMoji's drawings are seen in one of the spare styles instead."""
        style = self._drawings[row].style
        if style is not None:
            return STYLES[style]
        return _pick(list(SPARE_STYLES), self._random) if self._random.random() < SPARE_SHARE else ""

    def plain(self, row: int, language: str, prefix: str) -> str:
        """The caption as listed, behind the prefix."""
        return styled(caption(self._drawings[row], language), prefix)

    def draw(self, row: int, prefix: str) -> tuple[str, str, set[str]]:
        """(a wording, what it words, the English captions of all that this suits). For an emoji the second is its caption."""
        one, chance = self._drawings[row], self._random.random(6)
        language = LANGUAGES[int(chance[0] < 0.5)]
        bare, words = caption(one, language), keywords(one, language)
        if words and chance[1] < KEYWORD_SHARE:
            bare = words[int(chance[2] * len(words))]
        text = chosen(ALL_TEMPLATES[language], bare, float(chance[4])) if chance[3] < TEMPLATE_SHARE else bare
        if chance[5] < self._filler_share:
            text = self._filled(text, language)
        means = caption(one, language) if bare == one.text else bare
        return styled(text, prefix), styled(means, prefix), self._owners[language, bare.lower()]

    def suits(self, found: Sequence[Set[str]], rows: Sequence[int], prefixes: Sequence[str]) -> Tensor:
        """(texts, rows) bool: which rows each text suits, of those that are seen in the style of its own row."""
        names = [self._drawings[row].caption_en for row in rows]
        return torch.tensor(
            [
                [mine == other and name in own for name, other in zip(names, prefixes, strict=True)]
                for own, mine in zip(found, prefixes, strict=True)
            ]
        )

    def itself(self, row: int) -> set[str]:
        return {self._drawings[row].caption_en}

    @cached_property
    def _owners(self) -> Mapping[tuple[str, str], set[str]]:
        owners: dict[tuple[str, str], set[str]] = {}
        for one in self._drawings:
            for language in LANGUAGES:
                for text in (caption(one, language), *keywords(one, language)):
                    owners.setdefault((language, text.lower()), set()).add(one.caption_en)
        return owners

    def _filled(self, text: str, language: str) -> str:
        before = int(self._random.integers(self._most + 1))
        after = int(self._random.integers(self._most + 1 - before))
        some = [self._fillers.draw(language, self._random) for _ in range(before + after)]
        return (" " if language == "en" else "").join([*some[:before], text, *some[before:]])


def _common_characters() -> list[str]:
    codes = (bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return [text for text in (code.decode("gb2312", "ignore") for code in codes) if text]


def _words_of(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3]


def _pick(words: Sequence[str], random: np.random.Generator) -> str:
    return words[int(random.integers(len(words)))]


def _made_up(random: np.random.Generator) -> str:
    syllables = (_pick(CONSONANTS, random) + _pick(VOWELS, random) for _ in range(int(random.integers(1, 4))))
    return "".join(syllables) + _pick(ENDINGS, random)
