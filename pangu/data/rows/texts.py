"""What rows know of their captions, wherever these come from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pangu.data.captions import LANGUAGES, Caption
from pangu.data.rows.training_rows import Texts


class Captioned:
    """The part of `Rows` that is about captions, where they are kept in `texts`."""

    texts: Texts

    @property
    def styled_n(self) -> Tensor:
        return self.texts.styled_n

    @property
    def captions_n(self) -> Tensor:
        return self.texts.captions_n

    @property
    def keywords_nl(self) -> Tensor:
        return self.texts.keywords_nl

    @property
    def templates_nl(self) -> Tensor:
        return self.texts.templates_nl

    @property
    def lengths_nl(self) -> Tensor:
        return self.texts.lengths_nl

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        return self.texts.embed(rows, captions)


def none_nl(rows: int) -> Tensor:
    """(N, 2) of False, in the room of one row."""
    return torch.zeros(1, len(LANGUAGES), dtype=torch.bool).expand(rows, len(LANGUAGES))
