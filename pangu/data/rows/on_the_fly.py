"""Rows of one training job as images and captions, encoded when a batch is drawn. Nothing but the images is kept."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.data.captions import EMPTY, LANGUAGES, all_captions_of, styles_of
from pangu.data.encode.edges import control_image, find_edges
from pangu.data.encode.encoded import Manifest
from pangu.data.encode.encoders import Loaded, describe
from pangu.data.encode.latents import pixel_latents, shrunk_latents
from pangu.data.encode.views import View
from pangu.data.rows.image_copy import FORMAT, ImageCopy, Images
from pangu.data.rows.local_cache import Strings, cache_folder, made_once
from pangu.errors import UserError
from pangu.models.text import embed_captions, styled_caption
from pangu.storage import Home


class OnTheFlyRows:
    """`Rows` whose latents and embeddings the frozen encoders compute on their device; they come back to the host's memory."""

    def __init__(self, images: Images, view: View, loaded: Loaded) -> None:
        table = images.table
        self.keys = Strings(table["key"])
        self.min_timestep_n = torch.tensor(table["min_timestep"].to_numpy(), dtype=torch.int64)
        self.preset_n = torch.tensor(table["preset"].to_numpy())
        self.styled_n = _in_styles(table, loaded.styles)
        self.captions_n = torch.tensor(_counts(table), dtype=torch.int64)
        self._images, self._view, self._loaded = images, view, loaded

    def __len__(self) -> int:
        return len(self.keys)

    def latents(self, rows: Sequence[int]) -> Tensor:
        return _host(pixel_latents(self._images.pixels(rows), self._loaded.autoencoder))

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        if self._view.lower_sizes is None:
            return None
        size = self._view.lower_sizes[int(self._images.shape_n[rows[0]])]
        return _host(shrunk_latents(self._images.pixels(rows), size, self._loaded.autoencoder))

    def control(self, rows: Sequence[int]) -> Tensor | None:
        control = self._view.control
        if control is None:
            return None
        return control_image(np.stack([find_edges(pixels, control) for pixels in self._images.pixels(rows)]))

    def captions(
        self, rows: Sequence[int], variants: Sequence[int], numbers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        table = self._images.table.take(pa.array(np.asarray(rows)))
        plain = {language: all_captions_of(table, language) for language in LANGUAGES}
        texts = [""] * len(rows)
        for place, (variant, style) in enumerate(zip(variants, styles_of(table), strict=True)):
            if variant != EMPTY:
                own = plain[LANGUAGES[variant % len(LANGUAGES)]][place]
                text = own[(numbers[place] if numbers else 0) % len(own)]
                styled = variant >= len(LANGUAGES)
                texts[place] = styled_caption(text, self._loaded.styles[str(style)]) if styled else text
        tokens, pooled = embed_captions(self._loaded.towers, texts, self._loaded.max_tokens)
        return _host(tokens), _host(pooled)


def open_on_the_fly(folder: Path, role: Role, recipe: Recipe, device: torch.device | str) -> OnTheFlyRows:
    """The training split of one role; the first on a machine copies the images there.

    Raises:
        UserError: the dataset was not encoded for that role, with the recipe's encoders, or the disk is full.
    """
    manifest = Manifest.load(folder)
    data, loaded = manifest.job(role), Loaded.of(recipe, device)
    if describe(loaded.autoencoder, loaded.towers, recipe.max_tokens) != manifest.encoders:
        raise UserError(
            f"The encoders of recipe '{recipe.name}' are not those of {folder}; run `pangu encode` with it."
        )
    plan = ImageCopy.of(Home(folder.parents[3]), manifest.dataset, manifest.version, data)
    copy = made_once(cache_folder(folder) / f"{role}-images-{FORMAT}", plan.write, plan.needed_bytes)
    threads = min(8, len(os.sched_getaffinity(0)))
    return OnTheFlyRows(Images(copy, data.view, threads), data.view, loaded)


def _counts(table: pa.Table) -> list[int]:
    """How many captions each row has in the language in which it has more."""
    return [max(map(len, own)) for own in zip(*(all_captions_of(table, name) for name in LANGUAGES), strict=True)]


def _in_styles(table: pa.Table, styles: dict[str, str]) -> Tensor:
    return torch.tensor([style in styles for style in styles_of(table)], dtype=torch.bool)


def _host(values: Tensor) -> Tensor:
    """A float copy in the host's memory that autograd may keep: encoders compute in inference mode."""
    return values.clone().float().cpu()
