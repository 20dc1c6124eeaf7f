"""What a pair is asked for: captions as listed, in templates, and a keyword instead, each with the images that answer it.

Every choice is seeded and independent of the order of the table.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.captions import keywords_of, styles_of
from pangu.data.card import Split
from pangu.data.wording import worded
from pangu.errors import UserError
from pangu.evaluate.row_choice import Sort, SortedRows, in_turn

LANGUAGES = ("zh", "en")
Ask = Literal["train", "held_out", "templates", "keywords"]
"""Captions of a split as listed; trained captions in templates; a keyword in the place of each trained caption."""


@dataclass(frozen=True)
class Prompts:
    """N rows of one split, sorted by key, with a text in each language.

    styles: of each row, "" for none; empty where prompts ask for no style.
    truths: language -> of each row the keys of all images that are as right as its own; empty: only its own is.
    """

    split: Split
    keys: tuple[str, ...]
    captions: Mapping[str, tuple[str, ...]]
    styles: tuple[str, ...] = ()
    truths: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def style(self, index: int) -> str:
        return self.styles[index] if self.styles else ""

    def by_style(self) -> dict[str, list[int]]:
        """Style, "" for none -> the places of its prompts."""
        found: dict[str, list[int]] = {}
        for index in range(len(self)):
            found.setdefault(self.style(index), []).append(index)
        return dict(sorted(found.items()))

    def truths_of(self, language: str) -> Sequence[Collection[str]]:
        return self.truths.get(language) or [(key,) for key in self.keys]


def languages_of(rows: pa.Table) -> tuple[str, ...]:
    """The languages in which any row has a caption."""
    return tuple(name for name in LANGUAGES if any(rows[f"caption_{name}"].to_pylist()))


def choose_prompts(
    rows: pa.Table,
    split: Split,
    languages: tuple[str, ...],
    count: int | None,
    seed: int,
    styles: Collection[str] = (),
) -> Prompts:
    """A seeded choice of `count` rows of a split (None: all) that have a caption in every language of the dataset.

    styles: those that prompts ask for. The choice takes a row of each in turn, and one that has none of them, so that it is
    spread evenly as long as there are rows.
    """
    keys = prompt_keys(SortedRows.of(rows, styles), split, languages, count, seed)
    return prompts_of(rows, keys, split, languages, styles)


def prompt_keys(rows: SortedRows, split: Split, languages: tuple[str, ...], count: int | None, seed: int) -> list[str]:
    """The keys of `choose_prompts`, sorted."""
    sort = Sort((split,), languages)
    sizes = rows.sizes(sort)
    return rows.keys_at(sort, in_turn(sizes, seed, sizes.total() if count is None else min(count, sizes.total())))


def prompts_of(
    rows: pa.Table, keys: Sequence[str], split: Split, languages: tuple[str, ...], styles: Collection[str] = ()
) -> Prompts:
    """Rows of these keys as prompts; others may be among them."""
    ordered = rows.filter(pc.is_in(rows["key"], pa.array(keys, pa.string()))).sort_by("key")
    texts = {language: tuple(ordered[f"caption_{language}"].to_pylist()) for language in languages}
    asked = tuple(asked_styles(ordered, styles)) if styles else ()
    return Prompts(split=split, keys=tuple(ordered["key"].to_pylist()), captions=texts, styles=asked)


def in_templates(prompts: Prompts, templates: Mapping[str, Sequence[str]]) -> Prompts:
    """The same rows asked for in sentences: the i-th of them, in the order of keys, in template i mod the number of templates.

    Keys are content hashes, so that a template meets captions of every sort.

    Raises:
        UserError: no template is in a language of the captions.
    """
    texts = {
        language: tuple(
            worded(own[template_of(i, own)], caption) for i, caption in enumerate(prompts.captions[language])
        )
        for language, own in templates.items()
        if language in prompts.captions
    }
    if not texts:
        raise UserError(
            f"No template is in a language of the captions; those are in {', '.join(prompts.captions) or 'none'}."
        )
    return replace(prompts, captions={language: texts[language] for language in LANGUAGES if language in texts})


def template_of(index: int, templates: Sequence[str]) -> int:
    """The place of the template that the prompt at `index` is drawn in."""
    return index % len(templates)


def by_keyword(rows: pa.Table, prompts: Prompts, pool: Collection[str], seed: int) -> Prompts:
    """Those of the rows that have keywords in every language, each asked for by one of them, chosen by a hash of seed and key.

    Every candidate in `pool` that has the keyword, or is named so, is as right as the row's own.

    Raises:
        UserError: no row has keywords.
    """
    keys = rows["key"].to_pylist()
    languages = tuple(prompts.captions)
    words = {language: dict(zip(keys, keywords_of(rows, language), strict=True)) for language in languages}
    kept = [i for i, key in enumerate(prompts.keys) if all(words[language][key] for language in languages)]
    if not kept:
        raise UserError(
            f"No row that prompts are made of has keywords in {' and '.join(languages)}; leave out keywords, or give "
            f"their columns in the card."
        )
    styles, candidates = dict(zip(keys, asked_styles(rows, prompts.styles), strict=True)), set(pool)
    texts, truths = {}, {}
    for language in languages:
        asked = {prompts.keys[i]: _picked(words[language][prompts.keys[i]], seed, prompts.keys[i]) for i in kept}
        having: dict[tuple[str, str], set[str]] = {}
        for key, name in zip(keys, rows[f"caption_{language}"].to_pylist(), strict=True):
            if key in candidates:
                for word in {word.casefold() for word in (*words[language][key], name or "")}:
                    having.setdefault((styles[key], word), set()).add(key)
        texts[language] = tuple(asked.values())
        truths[language] = tuple(frozenset(having[styles[key], word.casefold()]) for key, word in asked.items())
    own = tuple(prompts.style(i) for i in kept) if prompts.styles else ()
    return Prompts(prompts.split, tuple(prompts.keys[i] for i in kept), texts, own, truths)


def asked_styles(rows: pa.Table, styles: Collection[str]) -> list[str]:
    """The style of each row, "" where prompts do not ask for it."""
    return [style if style and style in styles else "" for style in styles_of(rows)]


def _picked(words: Sequence[str], seed: int, key: str) -> str:
    """One of the words, as likely as any other, by a hash of seed and key."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return words[int.from_bytes(digest[:8], "big") % len(words)]
