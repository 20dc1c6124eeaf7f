"""The Inception feature space: the network of published FID, KID and IS figures, by the path of its weights.

The file is TorchScript, such as `inception-2015-12-05.pt` that StyleGAN2-ADA, StyleGAN3 and EDM publish: it brings its own
architecture and resizing, and loads without Python's pickle. Still, load only files whose origin you trust.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pangu.errors import UserError
from pangu.models.devices import best_device

NAME = "inception"


class Inception:
    """Features and class probabilities of images, by a TorchScript network over (B, 3, H, W) uint8.

    Args:
        path: the network. If its `forward` takes `return_features`, that gives features and the plain call gives class
            probabilities, or logits without bias where it takes `no_output_bias`; otherwise the plain call gives features.

    Raises:
        UserError: no TorchScript network is at the path.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"There is no Inception network at {path}; give the path of a TorchScript file (.pt).")
        self.hash = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        try:
            self._device = best_device()
            self._network = torch.jit.load(str(path), map_location=self._device).eval()
        except RuntimeError as error:
            raise UserError(
                f"{path} is no TorchScript network; FID takes files such as inception-2015-12-05.pt."
            ) from error
        self._arguments = {argument.name for argument in self._network.forward.schema.arguments}

    def features(self, images: Sequence[Image.Image], batch: int = 32) -> Tensor:
        """(N, D) float32, of the last pooling layer (2048 for the published network)."""
        options = {"return_features": True} if "return_features" in self._arguments else {}
        return self._run(images, options, batch)

    def probabilities(self, images: Sequence[Image.Image], batch: int = 32) -> Tensor:
        """(N, classes) float32, rows sum to 1.

        Raises:
            UserError: the network gives features only.
        """
        if "return_features" not in self._arguments:
            raise UserError("IS needs class probabilities, but this Inception network gives features only.")
        options = {"no_output_bias": True} if "no_output_bias" in self._arguments else {}
        found = self._run(images, options, batch)
        is_normalised = bool((found >= 0).all()) and torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-3)
        return found if is_normalised else found.softmax(1)

    @torch.inference_mode()
    def _run(self, images: Sequence[Image.Image], options: dict[str, bool], batch: int) -> Tensor:
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        found = (self._network(pixels(chunk).to(self._device), **options) for chunk in chunks)
        return torch.cat([one.float().flatten(1).cpu() for one in found])


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W) uint8 of equally sized images."""
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2)
