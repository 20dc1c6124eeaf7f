"""What rows know of their captions, wherever these come from."""

from collections.abc import Sequence

from torch import Tensor

from pangu.data.captions import Caption
from pangu.data.rows.training_rows import Texts, Wording


class Captioned:
    """The part of `Rows` that is about captions, where they are kept in `texts`."""

    texts: Texts

    def expect(self, rows: Sequence[int]) -> None:
        """What lies on this machine is there when it is asked for."""

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        return self.texts.wordings(rows)

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        return self.texts.embed(rows, captions)
