"""Images and captions to latents and text embeddings, once per dataset version, set of encoders and way of looking at images.

Originals and upscaled rows never share a file, so a job that trains on originals opens none that holds an upscaled row; jobs that
look at images alike share the files.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field
from safetensors.torch import save

from pangu.config import Frozen, Recipe, Role
from pangu.data.captions import LANGUAGES, TEXT_COLUMNS, all_captions_of, styles_of
from pangu.data.encode.edges import packed
from pangu.data.encode.encoded import EMPTY_CAPTION_FILE, Manifest, TextKind, partition_folder
from pangu.data.encode.encoders import Loaded, describe
from pangu.data.encode.fidelity import Fidelity, measure
from pangu.data.encode.latents import encode_view, to_bytes
from pangu.data.encode.plan import original_side, plan
from pangu.data.encode.views import View
from pangu.data.table.delta import data_files
from pangu.data.table.schema import with_lacking
from pangu.models.text import embed_captions, styled_caption
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, write_atomically, write_json

CHUNK_ROWS = 64
COLUMNS = [
    "key", "image", "width", "height", "original_width", "original_height", "min_timestep", "split", *TEXT_COLUMNS,
]  # fmt: skip


class EncodeOutcome(Frozen):
    """What `encode` made; `rows` are those of the training split."""

    dataset: str
    version: int
    encode_id: str
    rows: dict[Role, int]
    autoencoder_db: float | None = Field(None, description="Mean PSNR of decoded latents against some of the pictures")
    warnings: tuple[str, ...] = ()
    already_done: bool = False


def encode(
    dataset: str, version: int, recipe: Recipe, home: Home, report: Reporter = silent, batch_size: int = 16
) -> EncodeOutcome:
    """Encode one dataset version for every job of the recipe; resumes where a killed run stopped.

    A recipe that encodes on the fly gets a manifest only.

    Raises:
        UserError: a job of the recipe would have no row to learn from, or a row has a style that the recipe does not know.
    """
    loaded = Loaded.of(recipe, "cuda" if torch.cuda.is_available() else "cpu")
    manifest = plan(dataset, version, recipe, home, describe(loaded.autoencoder, loaded.towers, recipe.max_tokens))
    folder = home.encoded(dataset, manifest.encode_id())
    done = (folder / "manifest.json").is_file() and (folder / EMPTY_CAPTION_FILE).is_file()
    if manifest.latents == "precomputed":
        done = not _encode_files(manifest, home, folder, loaded, report, batch_size) and done
    if not done:
        _measure_autoencoder(manifest, home, folder, loaded)
        tokens, pooled = embed_captions(loaded.towers, [""], recipe.max_tokens)
        write_atomically(folder / EMPTY_CAPTION_FILE, save({"tokens": tokens.cpu(), "pooled": pooled.cpu()}))
        write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    kept = Fidelity.load(folder)
    return EncodeOutcome(
        dataset=dataset,
        version=version,
        encode_id=manifest.encode_id(),
        rows=manifest.rows,
        autoencoder_db=round(kept.mean_db, 2) if kept else None,
        warnings=(kept.warning,) if kept and kept.warning else (),
        already_done=done,
    )


def _measure_autoencoder(manifest: Manifest, home: Home, folder: Path, loaded: Loaded) -> None:
    """At the largest size that a job sees, on originals where there are any."""
    sizes = [data.view.sizes[index] for data in manifest.jobs.values() for index in data.view.kept]
    originals = data_files(home, manifest.dataset, manifest.version, upscaled=False)
    files = originals or data_files(home, manifest.dataset, manifest.version)
    if found := measure(files, max(sizes, key=math.prod), loaded.autoencoder):
        found.save(folder)


@dataclass(frozen=True)
class _Order:
    """What is to be made of one partition: a file per view and chunk."""

    folder: Path
    upscaled: bool
    views: dict[View, int]  # and the smallest original side that a job asks of it
    text: TextKind

    def paths(self, stem: str) -> dict[View, Path]:
        """The files of one chunk that are not there yet."""
        paths = {
            view: partition_folder(self.folder, view, self.upscaled) / f"part-{stem}.parquet" for view in self.views
        }
        return {view: path for view, path in paths.items() if not path.is_file()}


def _orders(manifest: Manifest, folder: Path) -> list[_Order]:
    orders = []
    for upscaled in (False, True):
        views: dict[View, int] = {}
        for data in manifest.jobs.values():
            if upscaled in data.partitions:
                views[data.view] = min(views.get(data.view, data.min_original_side), data.min_original_side)
        if views:
            orders.append(_Order(folder, upscaled, views, manifest.text))
    return orders


def _encode_files(
    manifest: Manifest, home: Home, folder: Path, loaded: Loaded, report: Reporter, batch_size: int
) -> int:
    """Write the files that are not there; returns how many chunks lacked one."""
    orders = _orders(manifest, folder)
    files = [
        (order, number, file)
        for order in orders
        for number, file in enumerate(data_files(home, manifest.dataset, manifest.version, order.upscaled))
    ]
    total = sum(pq.read_metadata(file).num_rows for _, _, file in files)
    done, made = 0, 0
    for order, number, file in files:
        for stem, rows in _chunks(file, number, order):
            if isinstance(rows, pa.Table) and order.paths(stem):
                _encode_chunk(rows, stem, order, loaded, batch_size)
                made += 1
            done += rows if isinstance(rows, int) else rows.num_rows
            report(Progress(stage="encode", done=done, total=total, unit="images"))
    return made


def _chunks(file: str, number: int, order: _Order) -> Iterator[tuple[str, pa.Table | int]]:
    """Name and rows of each chunk of one file of the dataset; only their number where everything is there already."""
    with pq.ParquetFile(file) as source:
        present = [name for name in COLUMNS if name in source.schema_arrow.names]
        for group in range(source.num_row_groups):
            rows = source.metadata.row_group(group).num_rows
            stems = [f"{number:05d}-{group:04d}-{chunk:04d}" for chunk in range(math.ceil(rows / CHUNK_ROWS))]
            if not any(order.paths(stem) for stem in stems):
                yield stems[0], rows
                continue
            table = source.read_row_group(group, columns=present)
            for chunk, stem in enumerate(stems):
                yield stem, table.slice(chunk * CHUNK_ROWS, CHUNK_ROWS)


def _encode_chunk(chunk: pa.Table, stem: str, order: _Order, loaded: Loaded, batch_size: int) -> None:
    """Write this chunk's file of each view, unless a run before has done so."""
    text = _Text(chunk, loaded)
    for view, path in order.paths(stem).items():
        sides = original_side(chunk)
        mine = np.flatnonzero(sides >= order.views[view])
        rows = chunk.take(mine)
        presets = [
            view.preset_of(h, w) for h, w in zip(*(rows[n].to_pylist() for n in ("height", "width")), strict=True)
        ]
        seen = encode_view(rows["image"].to_pylist(), presets, view, loaded.autoencoder, batch_size)
        columns: dict[str, Any] = {
            name: rows[name] for name in ("key", "caption_en", "caption_zh", "min_timestep", "split")
        }
        columns["original_side"] = pa.array(sides[mine], pa.int32())
        columns["styled"] = pa.array([style in loaded.styles for style in styles_of(rows)], pa.bool_())
        columns["preset"] = pa.array(presets, pa.int32())
        columns["captions"] = pa.array([text.counts[i] for i in mine], pa.int32())
        columns["latents"] = pa.array([to_bytes(latent) for latent in seen.latents], pa.binary())
        if view.lower_sizes is not None:
            columns["lower"] = pa.array([to_bytes(latent) for latent in seen.lower], pa.binary())
        if view.control is not None:
            columns["control"] = pa.array([packed(edges) for edges in seen.edges], pa.binary())
        if order.text == "precomputed":
            columns |= {name: pa.array([values[i] for i in mine], pa.binary()) for name, values in text.columns.items()}
        else:
            columns |= {name: with_lacking(rows, TEXT_COLUMNS)[name] for name in TEXT_COLUMNS}
        _write_part(path, pa.table(columns))


@dataclass(frozen=True)
class _Text:
    """The embedded captions of a chunk, computed when the first view asks for them."""

    chunk: pa.Table
    loaded: Loaded

    @cached_property
    def _captions(self) -> dict[str, list[list[str]]]:
        """Every caption of each row, by language: as many in both, the shorter list begins again."""
        lists = {language: all_captions_of(self.chunk, language) for language in LANGUAGES}
        counts = [max(map(len, own)) for own in zip(*lists.values(), strict=True)]
        return {
            language: [list(islice(cycle(texts), count)) for texts, count in zip(own, counts, strict=True)]
            for language, own in lists.items()
        }

    @property
    def counts(self) -> list[int]:
        """How many captions each row has in a language."""
        return [len(texts) for texts in self._captions[LANGUAGES[0]]]

    @cached_property
    def columns(self) -> dict[str, list[bytes | None]]:
        """Token and pooled embeddings as half-precision bytes per row, those of its captions one after the other; those of
        styled captions are null without style."""
        rows = range(self.chunk.num_rows)
        columns: dict[str, list[bytes | None]] = {}
        for language, captions in self._captions.items():
            columns |= self._embed(language, captions, list(rows))
        if self.loaded.styles:
            styles = styles_of(self.chunk)
            styled = [i for i in rows if styles[i] in self.loaded.styles]
            prefixes = [self.loaded.styles[str(styles[i])] for i in styled]
            for language, plain in self._captions.items():
                captions = [
                    [styled_caption(text, prefix) for text in plain[i]]
                    for i, prefix in zip(styled, prefixes, strict=True)
                ]
                columns |= self._embed(f"styled_{language}", captions, styled)
        return columns

    def _embed(self, name: str, captions: list[list[str]], where: list[int]) -> dict[str, list[bytes | None]]:
        tokens: list[bytes | None] = [None] * self.chunk.num_rows
        pooled = tokens.copy()
        embedded = self._each([text for texts in captions for text in texts])
        for i, texts in zip(where, captions, strict=True):
            pairs = [next(embedded) for _ in texts]
            tokens[i], pooled[i] = b"".join(one for one, _ in pairs), b"".join(one for _, one in pairs)
        return {f"tokens_{name}": tokens, f"pooled_{name}": pooled}

    def _each(self, captions: list[str]) -> Iterator[tuple[bytes, bytes]]:
        """The embeddings of each caption, a chunk of them at a time."""
        for start in range(0, len(captions), CHUNK_ROWS):
            batch = captions[start : start + CHUNK_ROWS]
            both = embed_captions(self.loaded.towers, batch, self.loaded.max_tokens)
            yield from ((to_bytes(sequence), to_bytes(vector)) for sequence, vector in zip(*both, strict=True))


def _write_part(path: Path, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")  # half-precision bits of latents do not compress
    write_atomically(path, sink.getvalue())
