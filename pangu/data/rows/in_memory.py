"""Rows of one shape, whole in memory: for tests and benchmarks of what is done with them. Needs nothing but torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pangu.data.captions import EMPTY, Caption
from pangu.data.rows.training_rows import Wording


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

    def expect(self, rows: Sequence[int]) -> None:
        """They are in memory."""

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        return [Wording()] * len(rows)

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
