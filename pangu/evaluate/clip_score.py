"""CLIP score and CN-CLIP score: how well an image fits its caption, by a CLIP model that saw neither generator."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pangu.errors import UserError
from pangu.models.clip import Clip, clip_score


class ClipScorer:
    """A frozen CLIP model of one kind ('clip' or 'chinese_clip').

    Raises:
        UserError: nothing loadable is at the source, or a model of another kind.
    """

    def __init__(self, source: str, kind: str) -> None:
        self._clip = Clip(source, kind)
        self.hash = self._clip.hash()

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> float:
        """The mean of `scores`, from 0 to 100."""
        return float(np.mean(self.scores(images, captions)))

    def scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """The score of each image, from 0 to 100.

        Raises:
            UserError: no image, or not one caption for each.
        """
        if not images or len(images) != len(captions):
            raise UserError(f"A CLIP score needs one caption per image, not {len(captions)} for {len(images)}.")
        return [float(value) for value in clip_score(self.cosines(images, captions))]

    def cosines(self, images: Sequence[Image.Image], captions: Sequence[str], batch: int = 32) -> Tensor:
        """(N,) cosine similarity in [-1, 1] of each image and its caption."""
        starts = range(0, len(images), batch)
        looked = (self._clip.look(images[start : start + batch]) for start in starts)
        read = (self._clip.read(captions[start : start + batch]) for start in starts)
        return torch.cat([(image * caption).sum(-1) for image, caption in zip(looked, read, strict=True)])
