"""Every random draw of training, as a function of (seed, step, position in the global batch).

So a draw depends neither on how many workers share the batch nor on what was drawn before, and a resumed run needs no
generator state. Knows nothing of models.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from pangu.config import Optimization
from pangu.data.batches import EncodedRows
from pangu.diffusion.interval import TimeInterval


@dataclass(frozen=True)
class Batch:
    """One worker's share of an optimizer step.

    latents_bchw, noise_bchw (B, C, H, W); tokens_bsc (B, S, C); pooled_bp (B, P); timestep_b (B,) int64; preset: index.
    """

    latents_bchw: Tensor
    noise_bchw: Tensor
    tokens_bsc: Tensor
    pooled_bp: Tensor
    timestep_b: Tensor
    preset: int

    def to(self, device: torch.device) -> "Batch":
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**moved, preset=self.preset)


def generator_for(seed: int, step: int, position: int) -> torch.Generator:
    """The noise source of one sample of one step."""
    digest = hashlib.blake2b(f"{seed}/{step}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_batch(
    rows: EncodedRows, indices: list[int], first_position: int, step: int, seed: int, interval: TimeInterval,
    optimization: Optimization, window: int | None = None,
) -> Batch:  # fmt: skip
    """Rows `indices`, which stand at `first_position` ... of the global batch of `step`, with all that is random about them.

    Timesteps are uniform on the part of `interval` that each row may train: t >= its min_timestep. With `window`, each sample
    is a random `window` x `window` part of its row's latents.
    """
    latents, noise, tokens, pooled, timesteps = [], [], [], [], []
    for position, row in enumerate(indices, start=first_position):
        generator = generator_for(seed, step, position)
        low = max(interval.low, int(rows.min_timestep_n[row]))
        timesteps.append(int(torch.randint(low, interval.high, (), generator=generator)))
        dropped, chinese = torch.rand(2, generator=generator).tolist()
        language = int(chinese < optimization.zh_share)
        keep = dropped >= optimization.caption_dropout
        tokens.append(rows.tokens_lnsc[language, row] if keep else rows.empty_tokens_sc)
        pooled.append(rows.pooled_lnp[language, row] if keep else rows.empty_pooled_p)
        latents.append(_cut(rows.latents_nchw[row], window, generator))
        noise.append(torch.randn(latents[-1].shape, generator=generator))
    return Batch(
        latents_bchw=torch.stack(latents).float(),
        noise_bchw=torch.stack(noise),
        tokens_bsc=torch.stack(tokens).float(),
        pooled_bp=torch.stack(pooled).float(),
        timestep_b=torch.tensor(timesteps),
        preset=int(rows.preset_n[indices[0]]),
    )


def _cut(latents_chw: Tensor, window: int | None, generator: torch.Generator) -> Tensor:
    """A random square part, or all of it."""
    height, width = latents_chw.shape[1:]
    if window is None or window >= min(height, width):
        return latents_chw
    top = int(torch.randint(height - window + 1, (), generator=generator))
    left = int(torch.randint(width - window + 1, (), generator=generator))
    return latents_chw[:, top : top + window, left : left + window]
