"""Any CLIP or Chinese CLIP that transformers loads, by folder or hub id: images and captions as vectors of one space."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    CLIPModel,
)

from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.models.hashing import architecture, weights_hash
from pangu.models.sources import locate

# The image processors of transformers that need no torchvision.
KINDS: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPModel, CLIPImageProcessorPil),
    "chinese_clip": (ChineseCLIPModel, ChineseCLIPImageProcessorPil),
}


class Clip:
    """A frozen CLIP model with its tokenizer and image processor.

    Args:
        kind: The one that is needed, of `KINDS`; None: any of them.

    Raises:
        UserError: nothing loadable is at the source, or a model of another kind.
    """

    def __init__(self, source: str, kind: str | None = None) -> None:
        place = locate(source, "clip")
        self.kind: str = _read(source, lambda: AutoConfig.from_pretrained(place).model_type)
        if self.kind not in ([kind] if kind else KINDS):
            wanted = kind or ", ".join(KINDS)
            raise UserError(f"'{source}' is a model of type '{self.kind}', but a CLIP score needs one of {wanted}.")
        model, processor = KINDS[self.kind]
        self.model = _read(source, lambda: model.from_pretrained(place, dtype=torch.float32, use_safetensors=True))
        self.processor = _read(source, lambda: processor.from_pretrained(place))
        self.tokenizer = _read(source, lambda: AutoTokenizer.from_pretrained(place))
        self.model.to(best_device()).eval().requires_grad_(False)

    def hash(self) -> str:
        """Content hash of the network."""
        return weights_hash(self.model, architecture(self.model.config))

    @torch.inference_mode()
    def look(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) embeddings of length 1, on the CPU."""
        seen = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return normalize(_embedding(self.model.get_image_features(**seen.to(self.model.device))), dim=-1).cpu()

    @torch.inference_mode()
    def read(self, captions: Sequence[str]) -> Tensor:
        """(N, D) embeddings of length 1, on the CPU; what a caption has beyond the model's longest text is cut off."""
        text = getattr(self.model.config, "text_config", self.model.config)
        longest = min(int(text.max_position_embeddings), int(self.tokenizer.model_max_length))
        limits = {"padding": True, "truncation": True, "max_length": longest}
        tokens = self.tokenizer(list(captions), return_tensors="pt", **limits)
        return normalize(_embedding(self.model.get_text_features(**tokens.to(self.model.device))), dim=-1).cpu()


def clip_score(cosines: Tensor) -> Tensor:
    """100 max(cos, 0) (arXiv 2104.08718, Eq. 1 with w = 1, times 100), from 0 to 100."""
    return 100 * cosines.clamp_min(0)


def _read(source: str, load: Callable[[], Any]) -> Any:
    """Raises UserError if a part of the model at `source` cannot be loaded."""
    try:
        return load()
    except (OSError, ValueError) as error:
        raise UserError(f"There is no CLIP model at '{source}': {str(error).splitlines()[0]}") from error


def _embedding(output: Any) -> Tensor:
    """transformers 5 wraps the projected embedding; before, it was the tensor itself."""
    return output if isinstance(output, Tensor) else output.pooler_output
