"""Any model of transformers that looks at images, by folder or hub id, as a function to vectors: CLIP, SigLIP, DINO, ViT."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.models.sources import locate


class ImageEmbedder:
    """A frozen model with its image processor.

    The embedding of a model of two towers is its projected image feature; of one tower, what it pools, else its first token.

    Raises:
        UserError: nothing loadable is at the source.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        place = locate(source, "image embedding")
        try:
            self._model: Any = AutoModel.from_pretrained(place, dtype=torch.float32, use_safetensors=True)
            self._processor: Any = AutoImageProcessor.from_pretrained(place)
        except (OSError, ValueError, KeyError, ImportError) as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(f"There is no model that embeds images at '{source}': {why}") from error
        self._model.to(best_device()).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) float32 of length 1, on the CPU."""
        seen = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        pixels = seen["pixel_values"].to(self._model.device)
        if hasattr(self._model, "get_image_features"):
            found = self._model.get_image_features(pixel_values=pixels)
        else:
            found = self._model(pixel_values=pixels)
        return normalize(_pooled(found).flatten(1), dim=-1).cpu()


def _pooled(output: Any) -> Tensor:
    """transformers 5 wraps what it pools; models that pool nothing have the image's token first."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled
