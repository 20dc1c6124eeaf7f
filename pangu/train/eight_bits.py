"""Numbers in 8 bits: blocks of 256 with a scale each, and steps that grow with a number's size (arXiv 2110.02861, Section 2).

Pure functions. Reading and writing again changes nothing: the largest number of a block is kept exactly.
"""

from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 256
DECADES = 7


@lru_cache(maxsize=8)
def levels(signed: bool, device: torch.device) -> Tensor:
    """What the codes mean, ascending, in [-1, 1] or [0, 1]: 255 or 256 values over seven decades, finest where they are large.

    As in bitsandbytes' dynamic map, but that -1 is a level like 1, so that a block's largest number is one whatever its sign.
    """
    positive: list[Tensor] = []
    for decade in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1, dtype=torch.float64)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - DECADES + 1))
    values = torch.cat(positive)
    if signed:
        values[-1] = 1.0
        values = torch.cat([-values.flip(0), torch.zeros(1, dtype=torch.float64), values])
    else:
        values = torch.cat([torch.zeros(1, dtype=torch.float64), values, torch.ones(1, dtype=torch.float64)])
    return values.float().to(device)


@lru_cache(maxsize=8)
def _borders(signed: bool, device: torch.device) -> Tensor:
    values = levels(signed, device)
    return (values[1:] + values[:-1]) / 2


def encode(values_n: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """(codes (N,) uint8, scales (N / 256,) float32) of float32 values; N is a multiple of 256. Rounds to the nearest level."""
    blocks = values_n.view(-1, BLOCK)
    scale = blocks.abs().amax(1)
    share = blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(share, _borders(signed, values_n.device), out_int32=True)
    return codes.to(torch.uint8).view(-1), scale


def decode(codes_n: Tensor, scale_b: Tensor, signed: bool) -> Tensor:
    """(N,) float32: what `encode` kept."""
    values = levels(signed, codes_n.device).index_select(0, codes_n.int())
    return (values.view(-1, BLOCK) * scale_b[:, None]).view(-1)
