"""Batches of few sizes: what is recorded or compiled for each size is then soon there for all requests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.sampling.question import Denoiser


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8 ... and `most` itself, rising."""
    return (*(2**power for power in range((most - 1).bit_length())), most)


def padded(network: "Denoiser", sizes: Sequence[int]) -> "Denoiser":
    """The same network, asked only for as many rows as one of `sizes` (rising); of larger batches for just as many as they have.

    Further rows repeat the last one, and nobody sees what comes of them. No row's answer depends on another row; the size of a
    batch decides how it is rounded.
    """

    def predict(*batch: "Tensor") -> "Tensor":
        rows = len(batch[0])
        further = next((size for size in sizes if size >= rows), rows) - rows
        return network(*(_longer(each, further) for each in batch))[:rows] if further else network(*batch)

    return predict


def _longer(tensor: "Tensor", further: int) -> "Tensor":
    import torch

    return torch.cat([tensor, tensor[-1:].expand(further, *tensor.shape[1:])])
