"""Every random draw of training, as a function of (seed, step, position in the global batch).

So a draw depends neither on how many workers share the batch nor on what was drawn before, and a resumed run needs no
generator state.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pangu.config import Optimization
from pangu.data.captions import EMPTY, LANGUAGES, Caption
from pangu.data.rows.training_rows import Rows, Wording
from pangu.train.timestep_sampler import TimestepSampler

Windows = Mapping[int, tuple[int, int]]
"""Preset index -> (height, width) in latents of the part of an image that is trained on."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of an optimizer step, or a part of it.

    latents_bchw, noise_bchw (B, C, H, W); tokens_bsc (B, S, C); pooled_bp (B, P); timestep_b (B,) int64, of flows float32;
    preset: index; lower_bchw: (B, C, H, W) for a later stage of a cascade; control_bchw: (B, 3, H, W) in [0, 1], px, for a
    ControlNet; weight_b: (B,) of the losses, where draws alone cannot give timesteps the recipe's density.
    """

    latents_bchw: Tensor
    noise_bchw: Tensor
    tokens_bsc: Tensor
    pooled_bp: Tensor
    timestep_b: Tensor
    preset: int
    lower_bchw: Tensor | None = None
    control_bchw: Tensor | None = None
    weight_b: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timestep_b)

    def to(self, device: torch.device) -> "Batch":
        """On `device`, where half precision becomes float32: half the bytes travel there."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return moved._map(lambda tensor: tensor.float() if tensor.dtype == torch.float16 else tensor)

    def pin(self) -> "Batch":
        """What is in the host's memory in page-locked memory, from where a GPU fetches it while it computes."""
        return self._map(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def split(self, parts: int) -> list["Batch"]:
        """`parts` batches of equal size, in order."""
        size = len(self) // parts
        return [self._map(lambda tensor, at=i * size: tensor[at : at + size]) for i in range(parts)]  # type: ignore[misc]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Draw:
    """What chance decides about one sample, beside its noise, its window and the wording of its caption."""

    timestep: float
    weight: float
    caption: Caption


def seed_of(seed: int, step: int, position: int) -> int:
    """A seed in [0, 2^63) of its own for each place of each step."""
    digest = hashlib.blake2b(f"{seed}/{step}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, step: int, position: int) -> torch.Generator:
    """The noise source of one sample of one step."""
    return torch.Generator().manual_seed(seed_of(seed, step, position))


def draw_batch(
    rows: Rows, indices: Sequence[int], first_position: int, step: int, seed: int, timesteps: TimestepSampler,
    optimization: Optimization, windows: Windows | None = None,
) -> Batch:  # fmt: skip
    """Rows `indices`, which stand at `first_position` ... of the global batch of `step`, with all that is random about them.

    Each row's timestep is at least its min_timestep. With `windows`, each sample is a random part of its row's latents.
    """
    generators = [
        generator_for(seed, step, position) for position in range(first_position, first_position + len(indices))
    ]
    limits, wordings, preset = (
        rows.min_timestep_n[list(indices)].tolist(),
        rows.wordings(indices),
        int(rows.preset_n[indices[0]]),
    )
    draws = [
        _draw(preset, limit, wording, timesteps, optimization, generator)
        for limit, wording, generator in zip(limits, wordings, generators, strict=True)
    ]
    latents, lower, control = rows.latents(indices), rows.lower(indices), rows.control(indices)
    height, width = (windows or {}).get(preset, latents.shape[2:])
    corners = [_corner(latents, height, width, generator) for generator in generators]
    noise = torch.stack([torch.randn(latents.shape[1], height, width, generator=g) for g in generators])
    # Last of all, so that a sample has the noise that it would have if captions stayed as they are listed.
    captions = [
        _reworded(draw.caption, wording, optimization, generator)
        for draw, wording, generator in zip(draws, wordings, generators, strict=True)
    ]
    tokens, pooled = rows.captions(indices, captions)
    return Batch(
        latents_bchw=_cut(latents, corners, height, width),
        noise_bchw=noise,
        tokens_bsc=tokens,
        pooled_bp=pooled,
        timestep_b=torch.tensor(
            [draw.timestep for draw in draws], dtype=torch.float32 if timesteps.continuous else torch.int64
        ),
        preset=preset,
        lower_bchw=None if lower is None else _cut(lower, corners, height, width),
        control_bchw=None if control is None else _cut_pixels(control, latents, corners, height, width),
        weight_b=torch.tensor([draw.weight for draw in draws]) if timesteps.weighs else None,
    )


def _draw(
    preset: int, min_timestep: int, wording: Wording, timesteps: TimestepSampler, optimization: Optimization,
    generator: torch.Generator,
) -> Draw:  # fmt: skip
    """Timestep and caption of one sample; nothing is drawn where there is no choice."""
    timestep, weight = timesteps.draw(preset, min_timestep, generator)
    dropped, chinese = torch.rand(2, generator=generator).tolist()
    variant = int(chinese < optimization.zh_share)
    if wording.styled and float(torch.rand((), generator=generator)) < optimization.style_share:
        variant += len(LANGUAGES)
    number = int(torch.randint(wording.captions, (), generator=generator)) if wording.captions > 1 else 0
    return Draw(timestep, weight, Caption(EMPTY if dropped < optimization.caption_dropout else variant, number))


def _reworded(
    caption: Caption, wording: Wording, optimization: Optimization, generator: torch.Generator
) -> Caption:  # fmt: skip
    """The caption of a length, a keyword and a template as their shares have it; nothing is drawn where there is no choice."""
    if caption.variant == EMPTY:
        return caption
    language, share_of_long = caption.variant % len(LANGUAGES), optimization.long_caption_share
    if share_of_long is not None and wording.lengths[language]:
        taken, which = torch.rand(2, generator=generator).tolist()
        caption = replace(caption, **{"long" if taken < share_of_long else "short": which})
    for name, share, there in (
        ("keyword", optimization.keyword_share, wording.keywords[language]),
        ("template", optimization.template_share, wording.templates[language]),
    ):
        if there and share:
            taken, which = torch.rand(2, generator=generator).tolist()
            caption = replace(caption, **{name: which}) if taken < share else caption
    return caption


def _corner(latents: Tensor, height: int, width: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a random part; nothing is drawn where there is no choice."""
    room = latents.shape[2] - height, latents.shape[3] - width
    if room == (0, 0):
        return 0, 0
    top, left = (int(torch.randint(free + 1, (), generator=generator)) for free in room)
    return top, left


def _cut(latents: Tensor, corners: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """(B, C, height, width): the part of each sample that begins at its corner."""
    if latents.shape[2:] == (height, width):
        return latents
    parts = [one[:, top : top + height, left : left + width] for one, (top, left) in zip(latents, corners, strict=True)]
    return torch.stack(parts)


def _cut_pixels(pixels: Tensor, latents: Tensor, corners: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """The same parts of pictures that the latents were encoded from."""
    factor = pixels.shape[2] // latents.shape[2]
    return _cut(pixels, [(factor * top, factor * left) for top, left in corners], factor * height, factor * width)
