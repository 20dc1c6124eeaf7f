"""What a pair is judged on: captions of each split in each language, their true images, and the images they compete with.

Every choice is seeded and independent of the order of the table. Knows nothing of generators.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pangu.data.card import Split
from pangu.data.encode.stage import fit_pixels
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.evaluate.protocol import Protocol
from pangu.storage import Home

LANGUAGES = ("zh", "en")
PROPOSED, PROPOSED_LENGTH = 24, 40
"""Captions of each language that a pair proposes, and the most characters of one."""
COLUMNS = ["key", "image", "caption_en", "caption_zh", "split"]


@dataclass(frozen=True)
class Prompts:
    """N rows of one split, sorted by key, with a caption in each language of the dataset."""

    split: Split
    keys: tuple[str, ...]
    captions: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Material:
    """Prompts per split; `images` holds every candidate by key; the pools name the candidates of each retrieval figure."""

    prompts: Mapping[Split, Prompts]
    images: Mapping[str, Image.Image]
    pools: Mapping[str, tuple[str, ...]]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(next(iter(self.prompts.values())).captions)

    def pool(self, name: str) -> dict[str, Image.Image]:
        """The candidates of `retrieval`, `memory` or `understanding`, by key."""
        return {key: self.images[key] for key in self.pools[name]}


def holds_out(home: Home, dataset: str, version: int) -> bool:
    """Whether a dataset version keeps rows from training."""
    return read_rows(home, dataset, version, columns=["key"], split="held_out").num_rows > 0


def gather(home: Home, dataset: str, version: int, protocol: Protocol, side: int) -> Material:
    """Read a dataset version and choose what the protocol asks for; images are `side` px squares.

    Raises:
        UserError: the split has no rows with captions.
    """
    rows = read_rows(home, dataset, version, columns=COLUMNS).sort_by("key")
    splits: tuple[Split, ...] = ("train",) if protocol.split == "train" else ("train", "held_out")
    languages = languages_of(rows)
    chosen = {
        split: choose_prompts(rows, split, languages, protocol.prompts_per_language, protocol.seed) for split in splits
    }
    for split, prompts in chosen.items():
        if not prompts.keys:
            hint = "hold some out in its card" if split == "held_out" else "caption some of its rows"
            raise UserError(f"Dataset '{dataset}' has no captioned rows in split '{split}', version {version}; {hint}.")
    pools = choose_pools(rows, chosen, protocol)
    wanted = {key for pool in pools.values() for key in pool}
    keys = rows["key"].to_pylist()
    images = {
        key: Image.fromarray(fit_pixels(rows["image"][index].as_py(), side))
        for index, key in enumerate(keys)
        if key in wanted
    }
    return Material(prompts=chosen, images=images, pools=pools)


def languages_of(rows: pa.Table) -> tuple[str, ...]:
    """The languages in which any row has a caption."""
    return tuple(name for name in LANGUAGES if any(rows[f"caption_{name}"].to_pylist()))


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


def choose_prompts(rows: pa.Table, split: Split, languages: tuple[str, ...], count: int | None, seed: int) -> Prompts:
    """A seeded choice of `count` rows of a split (None: all) that have a caption in every language of the dataset."""
    mine = rows.filter(pc.equal(rows["split"], split))
    captions = [mine[f"caption_{language}"].to_pylist() for language in languages]
    usable = [index for index, texts in enumerate(zip(*captions, strict=True)) if all(texts)]
    ordered = mine.take(usable).sort_by("key")
    if count is not None:
        picked = np.random.default_rng(seed).permutation(ordered.num_rows)[:count]
        ordered = ordered.take(np.sort(picked))
    texts = {language: tuple(ordered[f"caption_{language}"].to_pylist()) for language in languages}
    return Prompts(split=split, keys=tuple(ordered["key"].to_pylist()), captions=texts)


def choose_pools(rows: pa.Table, chosen: Mapping[Split, Prompts], protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """The candidates of each retrieval figure; the true images are always among them."""
    by_split = {
        split: rows.filter(pc.equal(rows["split"], split))["key"].to_pylist() for split in ("train", "held_out")
    }
    trained = chosen["train"].keys
    everything = sorted(by_split["train"] + by_split["held_out"])
    pools = {"retrieval": sample_keys(everything, trained, protocol.candidates, protocol.seed)}
    if "held_out" in chosen:
        pools["memory"] = sample_keys(by_split["train"], trained, protocol.memory_candidates, protocol.seed)
        pools["understanding"] = tuple(by_split["held_out"])
    return pools


def sample_keys(keys: list[str], always: tuple[str, ...], count: int | None, seed: int) -> tuple[str, ...]:
    """`count` keys in a seeded choice (None: all), among them those of `always`, sorted."""
    if count is None or count >= len(keys):
        return tuple(keys)
    kept = set(always)
    others = [key for key in keys if key not in kept]
    picked = np.random.default_rng(seed).permutation(len(others))[: max(0, count - len(kept))]
    return tuple(sorted(kept | {others[index] for index in picked}))
