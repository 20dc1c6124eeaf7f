"""What a pair is judged on: prompts of every kind, their true images, and the images they compete with.

Reads the dataset and no generator.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from pangu.data.captions import KEYWORDS, styles_of
from pangu.data.card import Split
from pangu.data.encode.pixels import fit_pixels
from pangu.data.table.chosen_images import chosen_images
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.evaluate.pools import choose_pools
from pangu.evaluate.prompts import (
    LANGUAGES,
    Ask,
    Prompts,
    asked_styles,
    by_keyword,
    choose_prompts,
    in_templates,
    languages_of,
)
from pangu.evaluate.protocol import Protocol
from pangu.evaluate.style_judge import StyleJudge, style_features, train_judge
from pangu.storage import Home

PROPOSED, PROPOSED_LENGTH = 24, 40
"""Captions of each language that a pair proposes, and the most characters of one."""
LEAST_EXAMPLES = 50
"""Originals of each style from which on the style of drawn images is judged, where nobody says what is measured."""
STYLE_EXAMPLES = 4000
"""Originals of each style that the classifier of styles learns from, at most."""
COLUMNS = ["key", "caption_en", "caption_zh", "split", "style", "upscaled", *KEYWORDS.values()]
"""What prompts and candidates are chosen by: images are read of those alone that were chosen."""


@dataclass(frozen=True)
class Material:
    """Prompts of each kind; `images` holds every candidate by key; the pools name the candidates of each retrieval figure.

    styles: of each candidate, "" for none; empty where prompts ask for no style. An image competes within its style.
    style_judge: tells in which style an image is drawn; None where prompts ask for none.
    """

    prompts: Mapping[Ask, Prompts]
    images: Mapping[str, Image.Image]
    pools: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, str] = field(default_factory=dict)
    style_judge: StyleJudge | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(next(iter(self.prompts.values())).captions)

    def pool(self, name: str, style: str = "") -> dict[str, Image.Image]:
        """The candidates of one style for `retrieval`, `memory`, `understanding`, `templates` or `keywords`, by key."""
        return {key: self.images[key] for key in self.pools[name] if self.styles.get(key, "") == style}


def holds_out(home: Home, dataset: str, version: int) -> bool:
    """Whether a dataset version keeps rows from training."""
    return read_rows(home, dataset, version, columns=["key"], split="held_out").num_rows > 0


def styles_in(home: Home, dataset: str, version: int) -> tuple[str, ...]:
    """The styles that rows of a dataset version have."""
    rows = read_rows(home, dataset, version, columns=["style"])
    return tuple(sorted({style for style in styles_of(rows) if style}))


def can_judge_styles(home: Home, dataset: str, version: int, styles: Collection[str]) -> bool:
    """Whether training originals are in two or more of these styles, none counted as one, and `LEAST_EXAMPLES` in each."""
    rows = read_rows(home, dataset, version, columns=["style"], upscaled=False, split="train")
    counts = Counter(asked_styles(rows, styles))
    return len(counts) > 1 and min(counts.values()) >= LEAST_EXAMPLES


def gather(home: Home, dataset: str, version: int, protocol: Protocol, side: int) -> Material:
    """Choose what the protocol asks for from a dataset version, and read that; images are `side` px squares.

    Raises:
        UserError: the split has no rows with captions, or the dataset lacks what templates, keywords or styles need.
    """
    rows = read_rows(home, dataset, version, columns=COLUMNS).sort_by("key")
    splits: tuple[Split, ...] = ("train",) if protocol.split == "train" else ("train", "held_out")
    languages = languages_of(rows)
    chosen: dict[Ask, Prompts] = {
        split: choose_prompts(
            rows, split, languages, protocol.prompts_per_language, protocol.seed, tuple(protocol.styles)
        )
        for split in splits
    }
    for split, prompts in chosen.items():
        if not prompts.keys:
            hint = "hold some out in its card" if split == "held_out" else "caption some of its rows"
            raise UserError(f"Dataset '{dataset}' has no captioned rows in split '{split}', version {version}; {hint}.")
    pools = choose_pools(rows, chosen, protocol)
    if protocol.templates:
        chosen["templates"] = in_templates(chosen["train"], protocol.templates)
    if protocol.keywords:
        chosen["keywords"] = by_keyword(rows, chosen["train"], pools["keywords"], protocol.seed)
    wanted = {key for pool in pools.values() for key in pool}
    keys, styles = rows["key"].to_pylist(), asked_styles(rows, tuple(protocol.styles))
    found = {key: fitted(data, side) for key, data in chosen_images(home, dataset, version, wanted)}
    images = {key: found[key] for key in sorted(found)}
    judge = None
    if "style" in protocol.metrics:
        examples = style_examples(rows, tuple(protocol.styles))
        originals = chosen_images(home, dataset, version, examples["key"].to_pylist(), upscaled=False)
        judge = style_judge(examples, tuple(protocol.styles), originals, side)
    own = dict(zip(keys, styles, strict=True)) if protocol.styles else {}
    return Material(prompts=chosen, images=images, pools=pools, styles=own, style_judge=judge)


def proposed_prompts(home: Home, dataset: str, version: int, seed: int = 0) -> dict[str, list[str]]:
    """Language -> a seeded choice of short captions that were trained, which whoever asks what the pair can draw may try."""
    rows = read_rows(home, dataset, version, columns=["key", "caption_en", "caption_zh"], split="train").sort_by("key")
    found = {}
    for language in LANGUAGES:
        texts = dict.fromkeys(text for text in rows[f"caption_{language}"].to_pylist() if text)
        short = [text for text in texts if len(text) <= PROPOSED_LENGTH]
        picked = np.random.default_rng(seed).permutation(len(short))[:PROPOSED]
        found[language] = [short[index] for index in sorted(picked)]
    return {language: texts for language, texts in found.items() if texts}


def fitted(data: bytes, side: int) -> Image.Image:
    """An encoded image as a square of `side` px."""
    return Image.fromarray(fit_pixels(data, side))


def style_examples(rows: pa.Table, styles: Collection[str]) -> pa.Table:
    """Originals of the training split that a classifier learns from, at most `STYLE_EXAMPLES` of each style."""
    originals = rows.filter(pc.and_(pc.equal(rows["split"], "train"), pc.invert(rows["upscaled"])))
    by_style: dict[str, list[int]] = {}
    for index, style in enumerate(asked_styles(originals, styles)):
        by_style.setdefault(style, []).append(index)
    return originals.take([index for own in by_style.values() for index in own[:STYLE_EXAMPLES]])


def style_judge(rows: pa.Table, styles: Collection[str], images: Iterable[tuple[str, bytes]], side: int) -> StyleJudge:
    """A classifier of styles that learnt from rows and their images, by key in any order.

    Raises:
        UserError: they have fewer than two styles, none counted as one.
    """
    # One at a time: thousands of whole images would fill the memory.
    features_of = {key: style_features([fitted(data, side)]) for key, data in images}
    features = [features_of[key] for key in rows["key"].to_pylist()]
    captions = (rows[f"caption_{language}"].to_pylist() for language in ("en", "zh"))
    names = [en or zh or "" for en, zh in zip(*captions, strict=True)]
    return train_judge(torch.cat(features), asked_styles(rows, styles), names)
