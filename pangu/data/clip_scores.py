"""CLIP score and aesthetic score of one image, by models given by path. Knows nothing of cards or thresholds."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    CLIPModel,
)

from pangu.data.images import ImageHWC
from pangu.errors import UserError
from pangu.models.sources import locate

# The image processors of transformers that need no torchvision, and the language whose captions each reads.
KINDS: dict[str, tuple[Any, Any, str]] = {
    "clip": (CLIPModel, CLIPImageProcessorPil, "en"),
    "chinese_clip": (ChineseCLIPModel, ChineseCLIPImageProcessorPil, "zh"),
}


class ClipScores:
    """A frozen CLIP or Chinese CLIP model.

    Raises:
        UserError: nothing loadable is at the source, or a model of another kind.
    """

    def __init__(self, source: str) -> None:
        try:
            place = locate(source, "clip")
            kind = AutoConfig.from_pretrained(place).model_type
            if kind not in KINDS:
                raise UserError(f"filters.clip_model '{source}' is a '{kind}'; it must be one of {', '.join(KINDS)}.")
            model, processor, self._language = KINDS[kind]
            self._model = model.from_pretrained(place, dtype=torch.float32, use_safetensors=True).eval()
            self._processor, self._tokenizer = processor.from_pretrained(place), AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            what = " ".join(str(error).split())[:200]
            raise UserError(f"filters.clip_model '{source}' cannot be loaded: {what}.") from error

    @torch.inference_mode()
    def look(self, image_hwc: ImageHWC) -> Tensor:
        """The image's embedding, (D,), of length 1."""
        seen = self._processor(images=[Image.fromarray(image_hwc)], return_tensors="pt")
        return torch.nn.functional.normalize(_vector(self._model.get_image_features(**seen)), dim=-1)

    def caption(self, caption_en: str, caption_zh: str) -> str:
        """The caption in the model's language; "" where there is none."""
        return caption_zh if self._language == "zh" else caption_en

    @torch.inference_mode()
    def agreement(self, embedding: Tensor, caption: str) -> float:
        """100 max(cos, 0) (arXiv 2104.08718, Eq. 1 with w = 1, times 100)."""
        longest = getattr(self._model.config, "text_config", self._model.config).max_position_embeddings
        tokens = self._tokenizer([caption], truncation=True, max_length=int(longest), return_tensors="pt")
        read = torch.nn.functional.normalize(_vector(self._model.get_text_features(**tokens)), dim=-1)
        return float(100 * (embedding @ read).clamp_min(0))


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


def _vector(features: Any) -> Tensor:
    """The single row of image or text features, whatever transformers wraps it in."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return tensor[0]
