"""What one training job knows of its rows, wherever they lie. Imports no torch: whoever reads a run folder imports this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pangu.data.captions import Caption
from pangu.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class NoRows(UserError):
    """A job has no row in a split of a dataset."""


class Share(NamedTuple):
    """What one dataset is of a mixture: so many rows, each of which appears `weight` times an epoch."""

    rows: int
    weight: float


def rehearsed(shares: Sequence[Share], rows: int, share: float) -> Share:
    """So many rows that are `share` of what is drawn of all, beside parts of other shares."""
    own = sum(part.rows * part.weight for part in shares)
    return Share(rows, own * share / (1 - share) / rows)


class Wording(NamedTuple):
    """In which words a row may be asked for.

    styled: has captions with a style's prefix; captions: how many it has in a language. keywords, templates: whether the row, if
    asked for in English and in Chinese, has keywords, and the recipe templates, in the language in which it is captioned then;
    lengths: whether it has both short and long captions in it.
    """

    styled: bool = False
    captions: int = 1
    keywords: tuple[bool, bool] = (False, False)
    templates: tuple[bool, bool] = (False, False)
    lengths: tuple[bool, bool] = (False, False)


class Worded(Protocol):
    """Rows that say in which words they may be asked for."""

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        """Of each of the rows."""
        ...


class Texts(Worded, Protocol):
    """Captions by row, apart from the images."""

    def embed(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        """As `Rows.captions`."""
        ...


class Rows(Worded, Protocol):
    """What a training job needs to know of its rows, sorted by key; rows of one bucket share a preset and a shape.

    keys: N content hashes; min_timestep_n, preset_n (N,) int64, which lie in files wherever rows may be many. Latents and
    embeddings come as float16 where they are stored, and as float32 where they are computed.
    """

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def min_timestep_n(self) -> Tensor: ...
    @property
    def preset_n(self) -> Tensor: ...
    def __len__(self) -> int: ...

    def expect(self, rows: Sequence[int]) -> None:
        """These are asked for soon: whatever takes time to come may be fetched."""
        ...

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
        """(B, S, C) token and (B, P) pooled embeddings of what each row shows; numbers are below its `Wording.captions`."""
        ...
