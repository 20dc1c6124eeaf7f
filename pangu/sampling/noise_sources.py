"""Unit Gaussian noise from one source for each image, so that batching changes no image."""

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Generators = tuple[torch.Generator, ...] | None
"""One noise source per image, one for all, or none."""


def unit_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator] | None, device: torch.device) -> Tensor:
    """Unit Gaussian noise (B, C, H, W), float32."""
    source = list(generators) if generators else None
    single = source[0] if source and len(source) == 1 else source
    return randn_tensor(shape, generator=single, device=device, dtype=torch.float32)
