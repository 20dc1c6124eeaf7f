"""CLIP score and aesthetic score of one image, by models given by path."""

from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pangu.data.images import ImageHWC
from pangu.errors import UserError
from pangu.models.clip import Clip, clip_score


class ClipScores:
    """A frozen CLIP or Chinese CLIP model.

    Raises:
        UserError: nothing loadable is at the source, or a model of another kind.
    """

    def __init__(self, source: str) -> None:
        try:
            self._clip = Clip(source)
        except UserError as error:
            raise UserError(f"filters.clip_model cannot be used: {error}") from error

    def look(self, image_hwc: ImageHWC) -> Tensor:
        """The image's embedding, (D,), of length 1."""
        return self._clip.look([Image.fromarray(image_hwc)])[0]

    def caption(self, caption_en: str, caption_zh: str) -> str:
        """The caption in the model's language; "" where there is none."""
        return caption_zh if self._clip.kind == "chinese_clip" else caption_en

    def agreement(self, embedding: Tensor, caption: str) -> float:
        """The CLIP score of an embedded image and a caption, from 0 to 100."""
        return float(clip_score(embedding @ self._clip.read([caption])[0]))


class LinearPredictor:
    """score = w . e + b of an embedding of length 1: the form of LAION's first aesthetic predictor.

    Raises:
        UserError: the file is no safetensors with `weight` (1, D) and `bias` (1,).
    """

    def __init__(self, path: Path) -> None:
        try:
            tensors = load_file(path)
            self._weight, self._bias = tensors["weight"].float().reshape(-1), float(tensors["bias"].reshape(()))
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise UserError(
                f"filters.aesthetic_model {path} must be a safetensors file with `weight` (1, D) and `bias` (1,)."
            ) from error
        self._path = path

    def __call__(self, embedding: Tensor) -> float:
        if embedding.shape != self._weight.shape:
            raise UserError(
                f"filters.aesthetic_model {self._path} reads {self._weight.numel()} numbers, but filters.clip_model gives "
                f"{embedding.numel()}; name the CLIP model that it was trained on."
            )
        return float(embedding @ self._weight) + self._bias
