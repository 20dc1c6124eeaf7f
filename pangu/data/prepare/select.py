"""Which of many rows become a dataset version: thresholds, near duplicates, splits. Reads facts, never an image.

The decision about a row depends on the card and on the facts of all rows, not on their order or on how they lie in files.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from pangu.data.captions import MORE
from pangu.data.card import Card
from pangu.data.filters import NearDuplicates, check_measured, reason_of
from pangu.data.prepare.near_duplicates import NearDuplicateIndex, near_duplicates
from pangu.data.table.delta import latest_version, read_rows
from pangu.errors import UserError
from pangu.storage import Home

DECIDING = [
    "key", "original_width", "original_height", "caption_en", "caption_zh", "aspect", "english", "chinese", "text_area", "nsfw",
    "clip_score", "aesthetic", "min_timestep", "phash", "colours", "upscaled", *MORE.values(),
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What becomes of one row; `reason` is "" for one that is kept."""

    reason: str
    split: str


@dataclass(frozen=True)
class Known:
    """What the decision looks at beyond the rows: keys of the version before, and pictures of other datasets."""

    keys: frozenset[str]
    pictures: NearDuplicateIndex | None


def known(card: Card, home: Home) -> Known:
    """What this home knows that bears on near duplicates; nothing where the card does not ask for them.

    Raises:
        UserError: a dataset that the card names does not exist.
    """
    rule = card.filters.near_duplicates
    if rule is None:
        return Known(frozenset(), None)
    try:
        earlier = read_rows(home, card.name, latest_version(home, card.name), columns=["key"])["key"].to_pylist()
    except UserError:
        earlier = []
    return Known(frozenset(earlier), _pictures_of(rule, home) if rule.against else None)


def _pictures_of(rule: NearDuplicates, home: Home) -> NearDuplicateIndex:
    pictures = NearDuplicateIndex(rule.max_bits, rule.max_colour)
    for dataset in rule.against:
        name, _, version = dataset.partition("@")
        if version and not version.isdigit():
            raise UserError(f"filters.near_duplicates.against names '{dataset}'; it must be NAME or NAME@VERSION.")
        pinned = int(version) if version else latest_version(home, name)
        rows = read_rows(home, name, pinned, columns=["phash", "colours"])
        for phash, colours in zip(rows["phash"].to_pylist(), rows["colours"].to_pylist(), strict=True):
            if colours is not None:
                pictures.add(int(phash, 16), colours)
    return pictures


def select(card: Card, facts: pa.Table, beyond: Known) -> dict[str, Verdict]:
    """The verdict on every row, by key.

    facts: columns `DECIDING` of all rows.

    Raises:
        UserError: a threshold asks for a score that no row has.
    """
    empty = {name for name in facts.column_names if facts[name].null_count == facts.num_rows}
    check_measured(card.filters, empty if facts.num_rows else set(), card.name)
    keys: list[str] = facts["key"].to_pylist()
    reasons = [reason_of(row, card.filters) for batch in facts.to_batches(65_536) for row in batch.to_pylist()]
    if card.filters.near_duplicates is not None:
        _mark_near_duplicates(card.filters.near_duplicates, facts, keys, reasons, beyond)
    captions, shared = zip(facts["caption_en"].to_pylist(), facts[MORE["en"]].to_pylist(), strict=True), cache(Verdict)
    return {
        key: shared(reason, card.split_of(caption or "", key, more or ()))
        for key, reason, (caption, more) in zip(keys, reasons, captions, strict=True)
    }


def _mark_near_duplicates(
    rule: NearDuplicates, facts: pa.Table, keys: list[str], reasons: list[str], beyond: Known
) -> None:
    phashes, colours = facts["phash"].to_pylist(), facts["colours"].to_pylist()
    pixels = np.asarray(facts["original_width"], np.int64) * np.asarray(facts["original_height"], np.int64)
    competing = [at for at, reason in enumerate(reasons) if not reason and colours[at] is not None]
    if beyond.pictures is not None:
        for at in competing:
            if beyond.pictures.has(int(phashes[at], 16), colours[at]):
                reasons[at] = "in_other_dataset"
    competing = [at for at in competing if not reasons[at]]
    order = sorted(competing, key=lambda at: (keys[at] not in beyond.keys, -int(pixels[at]), keys[at]))
    for at in near_duplicates(phashes, colours, order, NearDuplicateIndex(rule.max_bits, rule.max_colour)):
        reasons[at] = "near_duplicate"
