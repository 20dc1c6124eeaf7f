"""Rows of one training job as images and captions, encoded when a batch is drawn. Nothing but the images is kept."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.data.card import Split
from pangu.data.encode.edges import control_image, find_edges
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.encoders import Loaded, describe
from pangu.data.encode.view_latents import BATCH, pixel_latents, shrunk_latents
from pangu.data.encode.views import View
from pangu.data.rows.image_copy import FORMAT, ImageCopy, Images
from pangu.data.rows.local_cache import Strings, cache_folder, has_room, made_once, map_rows
from pangu.data.rows.row_numbers import as_tensor
from pangu.data.rows.texts import Captioned
from pangu.data.rows.training_rows import NoRows
from pangu.data.rows.worded_texts import WordedTexts, kept
from pangu.errors import UserError
from pangu.storage import Home


class OnTheFlyRows(Captioned):
    """`Rows` whose latents and embeddings the frozen encoders compute on their device, where they stay.

    However many rows are asked for, so few images are decoded and encoded at once that memory does not grow with them.
    """

    def __init__(self, images: Images, view: View, loaded: Loaded, texts: WordedTexts) -> None:
        self.keys = Strings(images.table["key"])
        self.min_timestep_n = as_tensor(images.numbers["min_timestep"])
        self.preset_n = as_tensor(images.numbers["preset"])
        self.texts = texts
        self.loaded = loaded
        self._images, self._view, self._autoencoder = images, view, loaded.autoencoder

    def __len__(self) -> int:
        return len(self.keys)

    def with_limits(self, min_timestep_n: Tensor) -> "OnTheFlyRows":
        """The same rows with other lowest timesteps."""
        other = copy.copy(self)
        other.min_timestep_n = min_timestep_n
        return other

    def expect(self, rows: Sequence[int]) -> None:
        self._images.expect(rows)

    def latents(self, rows: Sequence[int]) -> Tensor:
        return self._encoded(rows, lambda pixels: pixel_latents(pixels, self._autoencoder))

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        if self._view.lower_sizes is None:
            return None
        size = self._view.lower_sizes[int(self._images.shape_n[rows[0]])]
        return self._encoded(rows, lambda pixels: shrunk_latents(pixels, size, self._autoencoder))

    def _encoded(self, rows: Sequence[int], encode: Callable[[np.ndarray], Tensor]) -> Tensor:
        """(B, C, h, w) float32 on the autoencoder's device, of `BATCH` images at a time."""
        parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        return torch.cat([kept(encode(self._images.pixels(part))) for part in parts])

    def control(self, rows: Sequence[int]) -> Tensor | None:
        control = self._view.control
        if control is None:
            return None
        return control_image(np.stack([find_edges(pixels, control) for pixels in self._images.pixels(rows)]))


def open_on_the_fly(
    folder: Path,
    role: Role,
    recipe: Recipe,
    device: torch.device | str,
    split: Split = "train",
    like: OnTheFlyRows | None = None,
) -> OnTheFlyRows:
    """One split of what a role trains on; the first on a machine copies the images there, or where they lie if there is no room.

    like: rows of another dataset that was encoded with the same encoders, which are used.

    Raises:
        UserError: the dataset was not encoded for that role, with the recipe's encoders, or the disk is full.
    """
    manifest = EncodedManifest.load(folder)
    data, loaded = manifest.job(role), Loaded.of(recipe, device) if like is None else like.loaded
    if like is None and describe(loaded.autoencoder, loaded.towers, recipe.max_tokens) != manifest.encoders:
        raise UserError(
            f"The encoders of recipe '{recipe.name}' are not those of {folder}; run `pangu encode` with it."
        )
    loaded.fast()
    plan = ImageCopy.of(Home(folder.parents[3]), manifest.dataset, manifest.version, data, split)
    name = f"{role}-images-{FORMAT}" if split == "train" else f"{role}-{split}-images-{FORMAT}"
    whole, places = (cache_folder(folder) / one for one in (name, f"{name}-places"))
    needed_bytes = (
        0 if whole.is_dir() or places.is_dir() else plan.needed_bytes
    )  # which asks the store about every file
    if whole.is_dir() or (not places.is_dir() and has_room(whole, needed_bytes)):
        copy = made_once(whole, plan.write, needed_bytes)
    else:
        copy = made_once(places, plan.write_places, 0)
    if map_rows(copy)[0].num_rows == 0:
        kind = "training" if split == "train" else "held-out"
        raise NoRows(f"The dataset {manifest.dataset} has no {kind} rows for the {role} generator.")
    threads = min(8, len(os.sched_getaffinity(0)))
    images = Images(copy, data.view, threads)
    return OnTheFlyRows(images, data.view, loaded, WordedTexts.of(images.table, recipe, loaded.towers))
