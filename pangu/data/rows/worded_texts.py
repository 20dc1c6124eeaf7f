"""Captions that are worded anew for each sample, and embedded in the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from pangu.config import Recipe
from pangu.data.captions import EMPTY, KEYWORDS, LANGUAGES, Caption, all_captions_of, is_long, keywords_of, styles_of
from pangu.data.rows.training_rows import Wording
from pangu.data.shared_words import shared_words
from pangu.data.wording import listed, reworded
from pangu.models.text import TextTower, embed_captions, styled_caption
from pangu.templates import Language

MOST_OF_A_SUBJECT = 1000
"""Rows that are looked through for the name of one subject."""


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
        """With keywords, where the recipe asks for some and no row has any: what all captions share, as the name of a subject."""
        if recipe.optimization.keyword_share > 0:
            table = _named(table)
        return cls(table, towers, recipe.max_tokens, recipe.styles, recipe.caption_templates)

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        table = self._taken(rows)
        captions = [all_captions_of(table, language) for language in LANGUAGES]
        words = [keywords_of(table, language) for language in LANGUAGES]
        templates = [bool(self.templates.get(language)) for language in LANGUAGES]
        found = []
        for style, spoken, texts, keywords in zip(
            styles_of(table), _spoken(table), zip(*captions, strict=True), zip(*words, strict=True), strict=True
        ):
            lengths = [
                len({is_long(text, language) for text in own}) == 2
                for own, language in zip(texts, LANGUAGES, strict=True)
            ]
            facts = ([bool(own) for own in keywords], templates, lengths)
            by_language = ((one[spoken[0]], one[spoken[1]]) for one in facts)
            found.append(Wording(style in self.styles, max(map(len, texts)), *by_language))
        return found

    def _taken(self, rows: Sequence[int]) -> pa.Table:
        return self.table.take(pa.array(np.asarray(rows)))

    def worded(self, rows: Sequence[int], captions: Sequence[Caption]) -> list[str]:
        """What each row is called: its caption or a keyword of it, in a template, behind the prefix of its style."""
        table = self._taken(rows)
        plain = [all_captions_of(table, language) for language in LANGUAGES]
        words = [keywords_of(table, language) for language in LANGUAGES]
        texts = []
        for place, (shown, style, spoken) in enumerate(zip(captions, styles_of(table), _spoken(table), strict=True)):
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


def _named(table: pa.Table) -> pa.Table:
    for language in LANGUAGES:
        if table.num_rows > MOST_OF_A_SUBJECT or any(keywords_of(table, language)):
            continue
        captions = [text for own in all_captions_of(table, language) for text in own]
        name = shared_words(captions, language)
        if name is None:
            continue
        words = pa.array([[name]] * table.num_rows, pa.list_(pa.string()))
        place = table.column_names.index(KEYWORDS[language]) if KEYWORDS[language] in table.column_names else None
        if place is None:
            table = table.append_column(KEYWORDS[language], words)
        else:
            table = table.set_column(place, KEYWORDS[language], words)
    return table


def _spoken(table: pa.Table) -> list[tuple[int, int]]:
    """Of each row the language of its caption where it is asked for each; the other one where that is all it has."""
    en, zh = (table[f"caption_{language}"].to_pylist() for language in LANGUAGES)
    return [(0 if own or not other else 1, 1 if other or not own else 0) for own, other in zip(en, zh, strict=True)]


def kept(values: Tensor) -> Tensor:
    """A float32 copy that autograd may keep: encoders compute in inference mode."""
    return values.clone().float()
