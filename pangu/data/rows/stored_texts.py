"""Captions that were embedded before training: columns of embeddings in files, read by row index."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pangu.data.captions import EMPTY, LANGUAGES, Caption
from pangu.data.rows.training_rows import Wording


@dataclass(frozen=True)
class StoredTexts:
    """`Texts` whose embeddings lie in files; every caption as it is listed.

    text_n: place of a row's first caption in tokens_nvsc (M, 2, S, C) and pooled_nvp (M, 2, P), where its others follow; style_n:
    in the same columns of styled captions, or -1. Half precision throughout.
    """

    text_n: np.ndarray
    style_n: np.ndarray
    count_n: np.ndarray
    tokens_nvsc: np.ndarray
    pooled_nvp: np.ndarray
    styled_tokens_nvsc: np.ndarray
    styled_pooled_nvp: np.ndarray
    empty_tokens_sc: np.ndarray
    empty_pooled_p: np.ndarray

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        index = np.asarray(rows)
        pairs = zip((self.style_n[index] >= 0).tolist(), self.count_n[index].tolist(), strict=True)
        return [Wording(styled, count) for styled, count in pairs]

    def embed(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        index, number = np.asarray(rows), np.asarray([caption.number for caption in captions])
        variant = np.asarray([caption.variant for caption in captions])
        plain = self.text_n[index] + number, variant
        if (variant >= 0).all() and (variant < len(LANGUAGES)).all():
            return torch.from_numpy(self.tokens_nvsc[plain]), torch.from_numpy(self.pooled_nvp[plain])
        return (
            self._mixed(self.tokens_nvsc, self.styled_tokens_nvsc, self.empty_tokens_sc, index, variant, number),
            self._mixed(self.pooled_nvp, self.styled_pooled_nvp, self.empty_pooled_p, index, variant, number),
        )

    def _mixed(
        self, plain: np.ndarray, styled: np.ndarray, empty: np.ndarray, index: np.ndarray, variant: np.ndarray,
        number: np.ndarray,
    ) -> Tensor:  # fmt: skip
        """The caption of each row that its variant asks for."""
        values = np.empty((len(index), *empty.shape), empty.dtype)
        values[variant == EMPTY] = empty
        for where, column, places, first in (
            ((variant >= 0) & (variant < len(LANGUAGES)), plain, self.text_n, 0),
            (variant >= len(LANGUAGES), styled, self.style_n, len(LANGUAGES)),
        ):
            if where.any():
                values[where] = column[places[index[where]] + number[where], variant[where] - first]
        return torch.from_numpy(values)
