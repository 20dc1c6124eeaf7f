"""Texts as people write them, each with the caption as listed whose picture it asks for."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.data.wording import chosen, with_article, worded
from pangu.sentences import ALL_TEMPLATES, UNTRAINED_TEMPLATES
from pangu.starter.wordings import Fillers, Wordings, caption, keywords

LISTED, NOTHING, COMPOSED = 0.12, 0.02, 0.06
"""Shares of captions as they are, of texts that ask for no picture, and of those that ask for more than any drawing shows."""
TEMPLATE_SHARE, ASIDE_SHARE, STRANGE_SHARE = 0.6, 0.2, 0.4
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
GROUNDS: Mapping[str, Sequence[str]] = {
    "en": (
        "{text} on {look} paper", "{text} on a {look} wall", "{text} in front of a {look} curtain", "{text} on a {look} floor",
        "{text} against a {look} backdrop", "{text} with a {look} border", "on {look} ground, {text}", "{text} over {look}",
        "we see {text} before a {look} sheet", "there is {text} on a {look} surface", "that is {text} on a {look} page",
    ),
    "zh": (
        "{look}纸上的{text}", "{look}墙前的{text}", "{look}底的{text}", "{text}，{look}底色", "放在{look}桌面上的{text}",
        "{look}画布上有{text}",
    ),
}  # fmt: skip
"""What captions are put before or upon."""
ASIDE: Mapping[str, Sequence[str]] = {
    "en": (
        "a {word} of {a}", "the {word} of {a}", "some {word} with {a}", "{a} on the {word}", "{a} in a {word}", "{a} at {word}",
        "{a} near my {word}", "{a} under the {word}", "{a} behind our {word}", "{a} from the {word}", "{a} for the {word}",
        "we {word} {a}", "they {word} about {a}", "you {word} the {}", "I {word} of {a} and {word}", "to {word} like {a}",
        "at {word} we saw {a}", "on the {word} there was {a}", "every {word} has {a}", "our {word} and {a}", "{word}: {a}",
        "the {word} {word} shows {a}", "who will {word} {a} after {word}", "{a} is {word}", "{word} the {}", "her {}, so {word}",
    ),
    "zh": (
        "{word}上的{}", "{word}里的{}", "{word}旁边的{}", "在{word}看见{}", "{word}的时候有{}", "用{word}画{}", "我们{word}{}",
        "他们说{word}和{}", "{}在{word}里", "{}，{word}", "{word}：{}", "谁{word}了{}", "又{word}又{word}的{}",
        "为了{word}找{}", "{}真{word}", "一张{}的{word}", "一本{}的{word}", "这{word}有{}", "从{word}来的{}",
    ),
}  # fmt: skip
"""Sentences with words that drawings are called by and that are not what is asked for."""


class Paraphrases:
    """Pairs of (a text, the bare caption that it means), drawn at random.

    A keyword means one caption, always the same, of those that share it: where the text were drawn to the mean of several, the
    picture would be a mixture of theirs. Texts of nothing but templates and fillers mean "". What no drawing shows ("a blue
    banana", "a banana and an owl") means the first thing that one does. named_share: of texts around a name that no drawing has;
    they mean the name. Then some sentences have words aside, too: what has an article in them is meant.
    """

    def __init__(self, drawings: Sequence[Emoji], seed: int, named_share: float = 0) -> None:
        self._drawings, self._random, self._named_share = drawings, np.random.default_rng(seed), named_share
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
        if self._named_share and self._random.random() < self._named_share:
            return self._named(language)
        if self._named_share and self._random.random() < ASIDE_SHARE:
            bare = caption(self._any(), language)
            return self._beside(language, bare), bare
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
            return ALL_TEMPLATES[language][int(self._random.integers(len(ALL_TEMPLATES[language])))].partition("{")[0]
        count = int(self._random.integers(1, 5))
        some = self._fillers.function_word if self._named_share else self._fillers.draw
        return _joined(language, [some(language, self._random) for _ in range(count)])

    def _named(self, language: str) -> tuple[str, str]:
        name, words = self._fillers.name(language, self._random), 0
        if self._random.random() < 0.5:
            return self._beside(language, name), name
        text = self._worded(language, name)
        if self._random.random() < 0.6:
            words = int(self._random.integers(1, 6))
        before = int(self._random.integers(words + 1))
        some = [self._fillers.function_word(language, self._random) for _ in range(words)]
        return _joined(language, [*some[:before], text, *some[before:]]), name

    def _composed(self, language: str) -> tuple[str, str]:
        first, second = (caption(one, language) for one in (self._plain(), self._plain()))
        look, chance = LOOKS[language][int(self._random.integers(len(LOOKS[language])))], self._random.random()
        if chance < 0.35:
            ground = GROUNDS[language][int(self._random.integers(len(GROUNDS[language])))]
            return ground.format(look=look, text=with_article(first) if language == "en" else first), first
        if chance < 0.7:
            bare = f"{look} {first}" if language == "en" else look + first
            return self._worded(language, bare), bare if bare in self.drawing_of else first
        if language == "zh":
            return self._worded("zh", f"{first}和{second}"), first
        return f"{with_article(first)} and {with_article(second)}", first

    def _beside(self, language: str, bare: str) -> str:
        """`bare` in a sentence with one or two words aside."""
        sentence = str(_any_of(ASIDE[language], self._random))
        while "{word}" in sentence:
            strange = self._random.random() < STRANGE_SHARE
            word = (
                self._fillers.strange_word(language, self._random)
                if strange
                else _any_of(self._aside[language], self._random)
            )
            sentence = sentence.replace("{word}", str(word), 1)
        return worded(sentence, bare)

    @cached_property
    def _aside(self) -> Mapping[str, Sequence[str]]:
        """Single words that drawings are called by, none of which is in a sentence that judges."""
        judging = {language: " ".join(UNTRAINED_TEMPLATES[language]).lower() for language in LANGUAGES}
        found = {
            language: {word for one in self._drawings for word in keywords(one, language)} for language in LANGUAGES
        }
        return {
            "en": sorted(
                word for word in found["en"] if word.isascii() and word.isalpha() and word not in judging["en"]
            ),
            "zh": sorted(
                word
                for word in found["zh"]
                if 1 < len(word) < 4 and word.isalpha() and not word.isascii() and word not in judging["zh"]
            ),
        }

    def _worded(self, language: str, bare: str) -> str:
        if self._random.random() >= TEMPLATE_SHARE:
            return bare
        return chosen(ALL_TEMPLATES[language], bare, float(self._random.random()))

    def _plain(self) -> Emoji:
        """A drawing whose caption has no second part, such as a skin tone."""
        while True:
            if ":" not in (one := self._any()).caption_en:
                return one


def _any_of(words: Sequence[str], random: np.random.Generator) -> str:
    return words[int(random.integers(len(words)))]


def _joined(language: str, words: Sequence[str]) -> str:
    return (" " if language == "en" else "").join(words)


def _farness(word: str, text: str) -> tuple[bool, bool, int, str]:
    within = word.lower() in (text.lower().split() if text.isascii() else text)
    return not within, ":" in text or "：" in text, len(text), text
