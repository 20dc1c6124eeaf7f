"""One chunk of a dataset to its files: images decoded on CPU cores, then latents and embeddings by whoever has the networks."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.captions import LANGUAGES, TEXT_COLUMNS, all_captions_of, styles_of
from pangu.data.encode.chunks import CHUNK_ROWS, Chunk
from pangu.data.encode.edges import packed
from pangu.data.encode.encode_plan import original_side
from pangu.data.encode.encoders import Loaded
from pangu.data.encode.view_latents import Fitted, encode_fitted, fit_images, to_bytes
from pangu.data.encode.views import View
from pangu.data.table.schema import with_lacking
from pangu.models.text import embed_captions, styled_caption
from pangu.storage import write_atomically


@dataclass(frozen=True)
class DecodedChunk:
    """The rows of a chunk without their images, and those of each view that has no file yet: their places, and their pixels."""

    chunk: Chunk
    rows: pa.Table
    fitted: dict[View, tuple[np.ndarray, Fitted]]


def decode(chunk: Chunk, threads: int = 1) -> DecodedChunk:
    """Read a chunk and fit its images to every view whose file is not there."""
    rows = chunk.read()
    sides, fitted = original_side(rows), {}
    for view in chunk.missing():
        places = np.flatnonzero(sides >= chunk.order.views[view])
        mine = rows.take(places)
        sizes = zip(*(mine[name].to_pylist() for name in ("height", "width")), strict=True)
        presets = [view.preset_of(*size) for size in sizes]
        fitted[view] = places, fit_images(mine["image"].to_pylist(), presets, view, threads)
    # A copy, because a slice would travel with the whole group.
    return DecodedChunk(chunk, rows.drop_columns("image").take(np.arange(rows.num_rows)), fitted)


def write_files(loaded: Loaded, decoded: DecodedChunk, batch_size: int) -> None:
    """Encode a chunk and write its file of each view, as a whole or not at all."""
    text, paths = _Text(decoded.rows, loaded), decoded.chunk.missing()
    for view, (places, fitted) in decoded.fitted.items():
        if view not in paths:
            continue
        rows = decoded.rows.take(places)
        seen = encode_fitted(fitted, view, loaded.autoencoder, batch_size)
        columns: dict[str, Any] = {
            name: rows[name] for name in ("key", "caption_en", "caption_zh", "min_timestep", "split")
        }
        columns["original_side"] = pa.array(original_side(rows), pa.int32())
        columns["styled"] = pa.array([style in loaded.styles for style in styles_of(rows)], pa.bool_())
        columns["preset"] = pa.array(fitted.presets, pa.int32())
        columns["captions"] = pa.array([text.counts[i] for i in places], pa.int32())
        columns["latents"] = pa.array([to_bytes(latent) for latent in seen.latents], pa.binary())
        if view.lower_sizes is not None:
            columns["lower"] = pa.array([to_bytes(latent) for latent in seen.lower], pa.binary())
        if view.control is not None:
            columns["control"] = pa.array([packed(edges) for edges in fitted.edges], pa.binary())
        if decoded.chunk.order.text == "precomputed":
            columns |= {
                name: pa.array([values[i] for i in places], pa.binary()) for name, values in text.columns.items()
            }
        else:
            columns |= {name: with_lacking(rows, TEXT_COLUMNS)[name] for name in TEXT_COLUMNS}
        _write_part(paths[view], pa.table(columns))


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
