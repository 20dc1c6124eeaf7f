"""Rows of an encoded dataset as tensors: what one training job reads, and nothing of what it does with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.data.captions import EMPTY, LANGUAGES, Caption
from pangu.data.encode.encoded import Manifest
from pangu.data.rows.mapped import open_mapped
from pangu.data.rows.on_the_fly import open_on_the_fly
from pangu.data.rows.texts import none_nl
from pangu.errors import UserError

__all__ = ["EMPTY", "LANGUAGES", "Caption", "EncodedRows", "Rows", "load_rows"]


class Rows(Protocol):
    """What a training job needs to know of its rows, sorted by key; rows of one bucket share a preset and a shape.

    keys: N content hashes; min_timestep_n, preset_n (N,) int64; styled_n (N,) bool: has captions with a style's prefix;
    captions_n (N,) int64: how many captions a row has in a language. keywords_nl, templates_nl (N, 2) bool: whether a row that is
    asked for in English or Chinese has keywords, and the recipe templates, in the language in which it is captioned then.
    Latents and embeddings come as float16 where they are stored, and as float32 where they are computed.
    """

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def min_timestep_n(self) -> Tensor: ...
    @property
    def preset_n(self) -> Tensor: ...
    @property
    def styled_n(self) -> Tensor: ...
    @property
    def captions_n(self) -> Tensor: ...
    @property
    def keywords_nl(self) -> Tensor: ...
    @property
    def templates_nl(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def latents(self, rows: Sequence[int]) -> Tensor:
        """(B, C, H, W) latents of rows of one bucket."""
        ...

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        """(B, C, H, W) latents of the upsampled lower-resolution images; None unless the job is a later stage of a cascade."""
        ...

    def control(self, rows: Sequence[int]) -> Tensor | None:
        """(B, 3, H, W) control images in [0, 1], in pixels of the encoded image; None unless a ControlNet is trained."""
        ...

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        """(B, S, C) token and (B, P) pooled embeddings of what each row shows; numbers are below its `captions_n`."""
        ...


@dataclass(frozen=True)
class EncodedRows:
    """`Rows` of one shape, in memory.

    latents_nchw (N, C, H, W) float16; tokens_lnsc (2, N, S, C) and pooled_lnp (2, N, P) float16, first en then zh. A missing
    caption is the other language's.
    """

    keys: tuple[str, ...]
    latents_nchw: Tensor
    tokens_lnsc: Tensor
    pooled_lnp: Tensor
    min_timestep_n: Tensor
    preset_n: Tensor
    empty_tokens_sc: Tensor
    empty_pooled_p: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def styled_n(self) -> Tensor:
        return torch.zeros(len(self), dtype=torch.bool)

    @property
    def captions_n(self) -> Tensor:
        return torch.ones(len(self), dtype=torch.int64)

    @property
    def keywords_nl(self) -> Tensor:
        return none_nl(len(self))

    @property
    def templates_nl(self) -> Tensor:
        return none_nl(len(self))

    def latents(self, rows: Sequence[int]) -> Tensor:
        return self.latents_nchw[list(rows)].float()

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        return None

    def control(self, rows: Sequence[int]) -> Tensor | None:
        return None

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        index, variant = torch.tensor(rows), torch.tensor([caption.variant for caption in captions])
        tokens, pooled = self.tokens_lnsc[variant, index], self.pooled_lnp[variant, index]
        tokens[variant == EMPTY], pooled[variant == EMPTY] = self.empty_tokens_sc, self.empty_pooled_p
        return tokens.float(), pooled.float()


def load_rows(folder: Path, role: Role, recipe: Recipe | None = None, device: torch.device | str = "cpu") -> Rows:
    """The training split of one role, precomputed or encoded on the fly as the dataset was encoded for.

    On the fly, or where captions are worded anew for each sample, the encoders of `recipe` compute on `device`.

    Raises:
        UserError: the encoded dataset is unfinished, or holds no row for that role, or its encoders are not the recipe's.
    """
    if Manifest.load(folder).latents == "precomputed":
        return open_mapped(folder, role, recipe, device)
    if recipe is None:
        raise UserError(f"The dataset {folder.name} is encoded on the fly, which needs the recipe's encoders.")
    return open_on_the_fly(folder, role, recipe, device)
