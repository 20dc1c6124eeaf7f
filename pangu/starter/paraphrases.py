"""Texts as people write them, each with the caption as listed whose picture it asks for."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.data.wording import chosen, with_article
from pangu.sentences import TEMPLATES
from pangu.starter.wordings import Fillers, Wordings, caption, keywords

LISTED, NOTHING, COMPOSED = 0.12, 0.02, 0.06
"""Shares of captions as they are, of texts that ask for no picture, and of those that ask for more than any drawing shows."""
TEMPLATE_SHARE = 0.6
LOOKS: Mapping[str, Sequence[str]] = {
    "en": (
        "red", "blue", "green", "yellow", "purple", "pink", "orange", "black", "white", "brown", "grey", "big", "small", "happy",
        "sad",
    ),
    "zh": (
        "红色的", "蓝色的", "绿色的", "黄色的", "紫色的", "粉色的", "橙色的", "黑色的", "白色的", "棕色的", "灰色的", "大", "小",
    ),
}  # fmt: skip
"""What is put before captions."""


class Paraphrases:
    """Pairs of (a text, the bare caption that it means), drawn at random.

    A keyword means one caption, always the same, of those that share it: where the text were drawn to the mean of several, the
    picture would be a mixture of theirs. Texts of nothing but templates and fillers mean "". What no drawing shows ("a blue
    banana", "a banana and an owl") means the first thing that one does.
    """

    def __init__(self, drawings: Sequence[Emoji], seed: int) -> None:
        self._drawings, self._random = drawings, np.random.default_rng(seed)
        self._wordings = Wordings(drawings, seed, filler_share=0.5, most_fillers=5)
        self._fillers = Fillers(drawings)

    @cached_property
    def captions(self) -> list[str]:
        """Every caption as listed, in both languages."""
        return sorted({caption(one, language) for one in self._drawings for language in LANGUAGES})

    @cached_property
    def drawing_of(self) -> dict[str, int]:
        """Caption -> the place of a drawing that it names."""
        return {caption(one, language): place for place, one in enumerate(self._drawings) for language in LANGUAGES}

    def draw(self) -> tuple[str, str]:
        """(a text, what it means)."""
        language, chance = LANGUAGES[int(self._random.integers(2))], self._random.random()
        if chance < LISTED:
            own = caption(self._any(), language)
            return own, own
        if chance < LISTED + NOTHING:
            return self._nothing(language), ""
        if chance < LISTED + NOTHING + COMPOSED:
            return self._composed(language)
        row = int(self._random.integers(len(self._drawings)))
        text, means, _ = self._wordings.draw(row, "")
        return text, self.meant_by.get(means, means)

    def batch(self, count: int) -> tuple[list[str], list[str]]:
        """(texts, what each means)."""
        drawn = [self.draw() for _ in range(count)]
        return [text for text, _ in drawn], [means for _, means in drawn]

    @cached_property
    def meant_by(self) -> dict[str, str]:
        """Keyword -> the caption it means: one that has the word in it, of no skin tone, and short, where there is one."""
        owners: dict[str, list[str]] = {}
        for language in LANGUAGES:
            for one in self._drawings:
                for word in keywords(one, language):
                    owners.setdefault(word, []).append(caption(one, language))
        listed = set(self.captions)
        return {
            word: min(own, key=lambda text: _farness(word, text)) for word, own in owners.items() if word not in listed
        }

    def _any(self) -> Emoji:
        return self._drawings[int(self._random.integers(len(self._drawings)))]

    def _nothing(self, language: str) -> str:
        chance = self._random.random()
        if chance < 0.4:
            return ""
        if chance < 0.7:
            return TEMPLATES[language][int(self._random.integers(len(TEMPLATES[language])))].partition("{")[0]
        count = int(self._random.integers(1, 5))
        return (" " if language == "en" else "").join(self._fillers.draw(language, self._random) for _ in range(count))

    def _composed(self, language: str) -> tuple[str, str]:
        first, second = (caption(one, language) for one in (self._plain(), self._plain()))
        if self._random.random() < 0.5:
            look = LOOKS[language][int(self._random.integers(len(LOOKS[language])))]
            bare = f"{look} {first}" if language == "en" else look + first
            return self._worded(language, bare), bare if bare in self.drawing_of else first
        if language == "zh":
            return self._worded("zh", f"{first}和{second}"), first
        return f"{with_article(first)} and {with_article(second)}", first

    def _worded(self, language: str, bare: str) -> str:
        if self._random.random() >= TEMPLATE_SHARE:
            return bare
        return chosen(TEMPLATES[language], bare, float(self._random.random()))

    def _plain(self) -> Emoji:
        """A drawing whose caption has no second part, such as a skin tone."""
        while True:
            if ":" not in (one := self._any()).caption_en:
                return one


def _farness(word: str, text: str) -> tuple[bool, bool, int, str]:
    within = word.lower() in (text.lower().split() if text.isascii() else text)
    return not within, ":" in text or "：" in text, len(text), text
