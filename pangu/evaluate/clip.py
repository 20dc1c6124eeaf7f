"""CLIP score and CN-CLIP score: how well an image fits its caption, by a CLIP model that saw neither generator.

Any CLIP or Chinese CLIP that transformers loads, by folder or hub id. Knows nothing of pairs or protocols.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    CLIPModel,
)

from pangu.errors import UserError
from pangu.models.hashing import architecture, weights_hash
from pangu.models.sources import locate

# The image processors of transformers that need no torchvision.
KINDS: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPModel, CLIPImageProcessorPil),
    "chinese_clip": (ChineseCLIPModel, ChineseCLIPImageProcessorPil),
}


class ClipScorer:
    """A frozen CLIP model of one kind ('clip' or 'chinese_clip') with its tokenizer and image processor.

    Raises:
        UserError: nothing loadable is at the source, or a model of another kind.
    """

    def __init__(self, source: str, kind: str) -> None:
        place = locate(source, "clip")
        found = _read(source, lambda: AutoConfig.from_pretrained(place).model_type)
        if found != kind:
            raise UserError(f"'{source}' is a model of type '{found}', but this score needs a '{kind}' model.")
        model, processor = KINDS[kind]
        self._model = _read(source, lambda: model.from_pretrained(place, dtype=torch.float32, use_safetensors=True))
        self._processor = _read(source, lambda: processor.from_pretrained(place))
        self._tokenizer = _read(source, lambda: AutoTokenizer.from_pretrained(place))
        self._model.eval().requires_grad_(False)
        self.hash = weights_hash(self._model, architecture(self._model.config))

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> float:
        """100 max(cos, 0), averaged over pairs (arXiv 2104.08718, Eq. 1 with w = 1, times 100); from 0 to 100."""
        return float(np.mean(self.scores(images, captions)))

    def scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """The score of each image, whose mean is `score`.

        Raises:
            UserError: no image, or not one caption for each.
        """
        if not images or len(images) != len(captions):
            raise UserError(f"A CLIP score needs one caption per image, not {len(captions)} for {len(images)}.")
        return [100 * value for value in self.cosines(images, captions).clamp_min(0).tolist()]

    @torch.inference_mode()
    def cosines(self, images: Sequence[Image.Image], captions: Sequence[str], batch: int = 32) -> Tensor:
        """(N,) cosine similarity in [-1, 1] of each image and its caption."""
        values = []
        for start in range(0, len(images), batch):
            seen = [image.convert("RGB") for image in images[start : start + batch]]
            looked = self._model.get_image_features(**self._processor(images=seen, return_tensors="pt"))
            read = self._model.get_text_features(**self._tokens(captions[start : start + batch]))
            values.append(torch.nn.functional.cosine_similarity(_embedding(looked), _embedding(read)))
        return torch.cat(values)

    def _tokens(self, captions: Sequence[str]) -> Any:
        text = getattr(self._model.config, "text_config", self._model.config)
        longest = min(int(text.max_position_embeddings), int(self._tokenizer.model_max_length))
        return self._tokenizer(list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt")


def _read(source: str, load: Callable[[], Any]) -> Any:
    """Raises UserError if a part of the model at `source` cannot be loaded."""
    try:
        return load()
    except (OSError, ValueError) as error:
        raise UserError(f"There is no CLIP model at '{source}': {str(error).splitlines()[0]}") from error


def _embedding(output: Any) -> Tensor:
    """transformers 5 wraps the projected embedding; before, it was the tensor itself."""
    return output if isinstance(output, Tensor) else output.pooler_output
