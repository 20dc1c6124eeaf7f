"""Captions that are worded anew for each sample, and embedded in the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pangu.config import Recipe
from pangu.data.captions import EMPTY, KEYWORDS, LANGUAGES, Caption, all_captions_of, is_long, keywords_of, styles_of
from pangu.data.wording import listed, reworded
from pangu.models.text import TextTower, embed_captions, styled_caption
from pangu.templates import Language


@dataclass(frozen=True)
class WordedTexts:
    """`Texts` that are worded as each sample asks, and that the recipe's frozen towers embed on their device.

    table: `pangu.data.captions.TEXT_COLUMNS` of all rows. Embeddings stay on their device, in float32.
    """

    table: pa.Table
    towers: Sequence[TextTower]
    max_tokens: int
    styles: Mapping[str, str]
    templates: Mapping[Language, Sequence[str]]

    @classmethod
    def of(cls, table: pa.Table, recipe: Recipe, towers: Sequence[TextTower]) -> "WordedTexts":
        return cls(table, towers, recipe.max_tokens, recipe.styles, recipe.caption_templates)

    @cached_property
    def styled_n(self) -> Tensor:
        return torch.tensor([style in self.styles for style in styles_of(self.table)], dtype=torch.bool)

    @cached_property
    def captions_n(self) -> Tensor:
        lists = (all_captions_of(self.table, language) for language in LANGUAGES)
        return torch.tensor([max(map(len, own)) for own in zip(*lists, strict=True)], dtype=torch.int64)

    @cached_property
    def keywords_nl(self) -> Tensor:
        return torch.from_numpy(np.stack([self._has_keywords(language) for language in LANGUAGES], 1)).gather(
            1, self._spoken_nl
        )

    @cached_property
    def templates_nl(self) -> Tensor:
        return torch.tensor([bool(self.templates.get(language)) for language in LANGUAGES])[self._spoken_nl]

    @cached_property
    def lengths_nl(self) -> Tensor:
        both = [
            [len({is_long(text, language) for text in own}) == 2 for own in all_captions_of(self.table, language)]
            for language in LANGUAGES
        ]
        return torch.tensor(both, dtype=torch.bool).T.gather(1, self._spoken_nl)

    @cached_property
    def _spoken_nl(self) -> Tensor:
        """(N, 2) int64: the language of a row's caption where it is asked for each; the other one where that is all it has."""
        has = np.stack([self._has_caption(language) for language in LANGUAGES], 1)
        own = np.arange(len(LANGUAGES))
        return torch.from_numpy(np.where(has | ~has[:, ::-1], own, own[::-1]))

    def _has_caption(self, language: str) -> np.ndarray:
        return np.asarray(pc.fill_null(pc.greater(pc.binary_length(self.table[f"caption_{language}"]), 0), False))

    def _has_keywords(self, language: str) -> np.ndarray:
        if KEYWORDS[language] not in self.table.column_names:
            return np.zeros(self.table.num_rows, bool)
        return np.asarray(pc.fill_null(pc.greater(pc.list_value_length(self.table[KEYWORDS[language]]), 0), False))

    def worded(self, rows: Sequence[int], captions: Sequence[Caption]) -> list[str]:
        """What each row is called: its caption or a keyword of it, in a template, behind the prefix of its style."""
        index = np.asarray(rows)
        table, spoken_bl = self.table.take(pa.array(index)), self._spoken_nl[index].tolist()
        plain = [all_captions_of(table, language) for language in LANGUAGES]
        words = [keywords_of(table, language) for language in LANGUAGES]
        texts = []
        for place, (shown, style, spoken) in enumerate(zip(captions, styles_of(table), spoken_bl, strict=True)):
            if shown.variant == EMPTY:
                texts.append("")
                continue
            asked = shown.variant % len(LANGUAGES)
            language, own = spoken[asked], plain[asked][place]
            templates = self.templates.get(LANGUAGES[language], ())
            text = reworded(listed(own, shown, LANGUAGES[language]), shown, words[language][place], templates)
            is_styled = shown.variant >= len(LANGUAGES)
            texts.append(styled_caption(text, self.styles[str(style)]) if is_styled else text)
        return texts

    def embed(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        tokens, pooled = embed_captions(self.towers, self.worded(rows, captions), self.max_tokens)
        return kept(tokens), kept(pooled)


def kept(values: Tensor) -> Tensor:
    """A float32 copy that autograd may keep: encoders compute in inference mode."""
    return values.clone().float()
