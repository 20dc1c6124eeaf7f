"""What a pair is judged on: prompts of every kind, their true images, and the images they compete with.

Reads the dataset and no generator.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from pangu.data.captions import KEYWORDS
from pangu.data.card import Split
from pangu.data.encode.pixels import fit_pixels
from pangu.data.table.chosen_images import chosen_images
from pangu.data.table.row_batches import row_batches
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.spilling import engine, load
from pangu.errors import UserError
from pangu.evaluate import row_choice
from pangu.evaluate.pools import pools_of
from pangu.evaluate.prompts import (
    LANGUAGES,
    Ask,
    Prompts,
    asked_styles,
    by_keyword,
    in_templates,
    prompt_keys,
    prompts_of,
)
from pangu.evaluate.protocol import Protocol
from pangu.evaluate.row_choice import Sort, SortedRows, seeded_places, sorted_rows
from pangu.evaluate.style_judge import StyleJudge, style_features, train_judge
from pangu.storage import Home

PROPOSED, PROPOSED_LENGTH = 24, 40
"""Captions of each language that a pair proposes, and the most characters of one."""
LEAST_EXAMPLES = 50
"""Originals of each style from which on the style of drawn images is judged, where nobody says what is measured."""
STYLE_EXAMPLES = 4000
"""Originals of each style that the classifier of styles learns from, at most."""
COLUMNS = ["key", "caption_en", "caption_zh", "split", "style", "upscaled", *KEYWORDS.values()]
"""What is read of the rows that were chosen; then their images."""
_CAPTIONS = pa.schema([("key", pa.string()), ("text", pa.string())])


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
    return any(rows.num_rows for rows in row_batches(home, dataset, version, ["key"], split="held_out"))


def styles_in(home: Home, dataset: str, version: int) -> tuple[str, ...]:
    """The styles that rows of a dataset version have."""
    found = set[str]()
    for rows in row_batches(home, dataset, version, ["style"]):
        found |= set(rows["style"].unique().to_pylist()) - {None, ""}
    return tuple(sorted(found))


def can_judge_styles(home: Home, dataset: str, version: int, styles: Collection[str]) -> bool:
    """Whether training originals are in two or more of these styles, none counted as one, and `LEAST_EXAMPLES` in each."""
    counts = Counter[str]()
    for rows in row_batches(home, dataset, version, ["style"], upscaled=False, split="train"):
        counts.update(asked_styles(rows, styles))
    return len(counts) > 1 and min(counts.values()) >= LEAST_EXAMPLES


def gather(home: Home, dataset: str, version: int, protocol: Protocol, side: int) -> Material:
    """Choose what the protocol asks for from a dataset version, and read that; images are `side` px squares.

    Raises:
        UserError: the split has no rows with captions, or the dataset lacks what templates, keywords or styles need.
    """
    splits: tuple[Split, ...] = ("train",) if protocol.split == "train" else ("train", "held_out")
    styles = tuple(protocol.styles)
    with sorted_rows(row_batches(home, dataset, version, row_choice.COLUMNS), styles) as listed:
        languages = listed.languages()
        keys = {
            split: prompt_keys(listed, split, languages, protocol.prompts_per_language, protocol.seed)
            for split in splits
        }
        for split, own in keys.items():
            if not own:
                hint = "hold some out in its card" if split == "held_out" else "caption some of its rows"
                raise UserError(
                    f"Dataset '{dataset}' has no captioned rows in split '{split}', version {version}; {hint}."
                )
        asked = rows_of(home, dataset, version, {key for own in keys.values() for key in own})
        chosen: dict[Ask, Prompts] = {
            split: prompts_of(asked, own, split, languages, styles) for split, own in keys.items()
        }
        pools = pools_of(listed, chosen, protocol)
        wanted = {key for pool in pools.values() for key in pool}
        shown = style_keys(listed) if "style" in protocol.metrics else []
    rows = rows_of(home, dataset, version, wanted | set(shown))
    if protocol.templates:
        chosen["templates"] = in_templates(chosen["train"], protocol.templates)
    if protocol.keywords:
        chosen["keywords"] = by_keyword(rows, chosen["train"], pools["keywords"], protocol.seed)
    found = {key: fitted(data, side) for key, data in chosen_images(home, dataset, version, wanted)}
    images = {key: found[key] for key in sorted(found)}
    judge = None
    if "style" in protocol.metrics:
        examples = rows.filter(pc.is_in(rows["key"], pa.array(shown, pa.string())))
        originals = chosen_images(home, dataset, version, examples["key"].to_pylist(), upscaled=False)
        judge = style_judge(examples, tuple(protocol.styles), originals, side)
    drawn = dict(zip(rows["key"].to_pylist(), asked_styles(rows, styles), strict=True)) if styles else {}
    return Material(prompts=chosen, images=images, pools=pools, styles=drawn, style_judge=judge)


def rows_of(home: Home, dataset: str, version: int, keys: Collection[str]) -> pa.Table:
    """The rows of these keys, by key, without their images; all rows are read, some at a time."""
    wanted = pa.array(sorted(keys), pa.string())
    found = [rows.filter(pc.is_in(rows["key"], wanted)) for rows in row_batches(home, dataset, version, COLUMNS)]
    return pa.concat_tables(found).sort_by("key")


def proposed_prompts(home: Home, dataset: str, version: int, seed: int = 0) -> dict[str, list[str]]:
    """Language -> a seeded choice of short captions that were trained, which whoever asks what the pair can draw may try."""
    found = {}
    for language in LANGUAGES:
        column = f"caption_{language}"
        with ScratchFolder("pangu-rows-") as folder, engine(folder) as connection:
            load(connection, "short", _CAPTIONS, _short(home, dataset, version, column))
            # Each text once, in the order of the keys of its first row.
            connection.execute("create table texts as select text, min(key) as key from short group by text")
            [(count,)] = connection.execute("select count(*) from texts").fetchall()
            places = np.sort(seeded_places(count, seed, PROPOSED))
            numbered = "select text, row_number() over (order by key) - 1 as place from texts"
            asked = f"select text from ({numbered}) where place in ({', '.join(map(str, places))}) order by place"
            found[language] = [text for (text,) in connection.execute(asked).fetchall()] if count else []
    return {language: texts for language, texts in found.items() if texts}


def _short(home: Home, dataset: str, version: int, column: str) -> Iterator[pa.Table]:
    """Key and caption of trained rows whose caption is short, schema `_CAPTIONS`."""
    for rows in row_batches(home, dataset, version, ["key", column], split="train"):
        length = pc.fill_null(pc.utf8_length(rows[column]), 0)
        short = rows.filter(pc.and_(pc.greater(length, 0), pc.less_equal(length, PROPOSED_LENGTH)))
        yield short.rename_columns(_CAPTIONS.names)


def fitted(data: bytes, side: int) -> Image.Image:
    """An encoded image as a square of `side` px."""
    return Image.fromarray(fit_pixels(data, side))


def style_keys(rows: SortedRows) -> list[str]:
    """Originals of the training split that a classifier learns from, at most `STYLE_EXAMPLES` of each style."""
    sort = Sort(("train",), originals=True)
    return rows.keys_at(sort, {style: np.arange(min(size, STYLE_EXAMPLES)) for style, size in rows.sizes(sort).items()})


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
