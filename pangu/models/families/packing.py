"""2 x 2 latents as one token, as FLUX.1 and Qwen-Image have it."""

import torch
from torch import Tensor


def pack(latents_bchw: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H / 2 * W / 2, 4 C), row by row."""
    batch, channels, height, width = latents_bchw.shape
    parts = latents_bchw.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(batch, height // 2 * (width // 2), 4 * channels)


def unpack(tokens_bnc: Tensor, height: int, width: int) -> Tensor:
    """The opposite of `pack`, for latents of height x width."""
    batch, _, channels = tokens_bnc.shape
    parts = tokens_bnc.reshape(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(batch, channels // 4, height, width)


def grid_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 3): 0, row and column of each token."""
    places = torch.zeros(rows, columns, 3, device=device)
    places[..., 1] += torch.arange(rows, device=device)[:, None]
    places[..., 2] += torch.arange(columns, device=device)[None, :]
    return places.reshape(-1, 3)
