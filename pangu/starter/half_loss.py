"""What a half of the embedded pair is trained by: the error of its prediction on drawings under noise of its own interval."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pangu.contract import GeneratorContract
from pangu.diffusion.noise import add_noise, training_target
from pangu.diffusion.training_levels import training_levels
from pangu.models.denoisers import denoise

EMPTY_SHARE = 0.1
"""Of the texts: none, for classifier-free guidance."""


class HalfLoss:
    """latents_nchw (N, C, h, w): of each drawing, as the pair's autoencoder encodes it. random: decides everything, in order."""

    def __init__(
        self, network: Any, contract: GeneratorContract, latents_nchw: Tensor, random: torch.Generator
    ) -> None:
        self._network, self._contract, self._latents_nchw, self._random = network, contract, latents_nchw, random
        self._levels = training_levels(contract.schedule)
        self._side = contract.resolution // contract.spatial_factor
        self._room = latents_nchw.shape[-1] - self._side + 1

    def __call__(self, rows: Sequence[int], tokens_bsc: Tensor, pooled_bp: Tensor) -> Tensor:
        """Of B drawings, by place, at random timesteps and all in one window, asked for by these texts."""
        top, left = torch.randint(self._room, (2,), generator=self._random).tolist()
        clean = self._latents_nchw[rows, :, top : top + self._side, left : left + self._side]
        timestep = torch.randint(self._contract.low, self._contract.high, (len(rows),), generator=self._random)
        noise, level = torch.randn(clean.shape, generator=self._random), self._levels.level(timestep)
        noisy = add_noise(clean, noise, level)
        predicted = denoise(self._network, noisy, timestep, tokens_bsc, pooled_bp, preset=0)
        return (predicted - training_target(clean, noise, level, self._levels.prediction)).square().mean()
