"""Resolution presets: the shapes around a base resolution, and the index that conditions the denoiser.

The lists are those of the public PanGu Draw 3.0 inference example; the index is the position in the list.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from typing import Literal

from pangu.errors import UserError

Size = tuple[int, int]
"""(height, width)."""
PresetKind = Literal["square", "published"]

HIGH_RESOLUTION: tuple[Size, ...] = (
    (512, 2048), (512, 1920), (768, 1536), (864, 1536), (960, 1280),
    (1024, 1024),
    (1280, 960), (1536, 768), (1920, 512), (2048, 512),
)  # fmt: skip
LOW_RESOLUTION: tuple[Size, ...] = (
    (256, 1024), (256, 960), (320, 768), (384, 640), (448, 576),
    (512, 512),
    (576, 448), (640, 384), (768, 320), (960, 256), (1024, 256),
)  # fmt: skip
PUBLISHED = {1024: HIGH_RESOLUTION, 512: LOW_RESOLUTION}
"""Base resolution -> its list."""


def presets_for(resolution: int, kind: PresetKind = "square", spatial_factor: int = 8) -> tuple[Size, ...]:
    """(height, width) in px of every preset of a base resolution; for 1024 and 512 always the published lists.

    Any other base has one square, or with `kind` "published" the list of the next published base, scaled: the low one up to
    512, the high one above. Sides are multiples of as many latents (4, 2 or 1) as leave all presets different.

    Raises:
        UserError: the base is too small for that many shapes.
    """
    if resolution in PUBLISHED:
        return PUBLISHED[resolution]
    return ((resolution, resolution),) if kind == "square" else _scaled(resolution, spatial_factor)


def preset_index(height: int, width: int, resolution: int, kind: PresetKind = "square", spatial_factor: int = 8) -> int:
    """The index of the preset of exactly this size.

    Raises:
        UserError: no preset has that size; the sentence lists those that exist.
    """
    presets = presets_for(resolution, kind, spatial_factor)
    if (height, width) not in presets:
        sizes = ", ".join(f"{h}x{w}" for h, w in presets)
        raise UserError(f"No preset is {height}x{width} (height x width); this model knows {sizes}.")
    return presets.index((height, width))


def nearest_preset(
    height: int, width: int, resolution: int, kind: PresetKind = "square", spatial_factor: int = 8
) -> int:
    """The index of the preset whose aspect ratio is nearest in the logarithm; of two equally near ones the squarer."""
    return nearest_of(height, width, presets_for(resolution, kind, spatial_factor))


def nearest_of(height: int, width: int, presets: Sequence[Size]) -> int:
    """The position in `presets` of the aspect ratio nearest to height / width in the logarithm, or else the squarer one.

    Kept as exact ratios, so that a transposed picture gets the transposed preset.
    """

    def distance(index: int) -> tuple[Fraction, Fraction]:
        return _apart((height, width), presets[index]), Fraction(max(presets[index]), min(presets[index]))

    return min(range(len(presets)), key=distance)


def paired_presets(encoded: Sequence[Size], trained: Sequence[Size]) -> tuple[int, ...]:
    """For each preset of a list that images are encoded at, the one of a list that windows of them are trained at.

    Both lists go from wide to tall, and so does the pairing. The pairs are those nearest in aspect ratio of all that give
    every encoded shape a trained one of its own: were two to share one, a batch could mix shapes.
    """

    def distance(chosen: tuple[int, ...]) -> Fraction:
        return sum((_apart(size, trained[index]) for size, index in zip(encoded, chosen, strict=True)), Fraction())

    return min(combinations(range(len(trained)), len(encoded)), key=distance)


def _apart(one: Size, other: Size) -> Fraction:
    """How many times wider, or narrower, one aspect ratio is than the other; at least 1."""
    ratio = Fraction(one[0] * other[1], one[1] * other[0])
    return max(ratio, 1 / ratio)


def _scaled(resolution: int, spatial_factor: int) -> tuple[Size, ...]:
    base = 512 if resolution <= 512 else 1024
    for latents in (4, 2, 1):
        grid = latents * spatial_factor
        sizes = tuple(
            (_to_grid(height * resolution, base, grid), _to_grid(width * resolution, base, grid))
            for height, width in PUBLISHED[base]
        )
        if resolution % grid == 0 and len({Fraction(*size) for size in sizes}) == len(sizes):
            return sizes
    raise UserError(
        f"The published presets cannot be scaled to {resolution} px at {spatial_factor} px per latent, because shapes would fall "
        f"together; raise resolution, or choose presets: square."
    )


def _to_grid(numerator: int, denominator: int, grid: int) -> int:
    """The multiple of `grid` nearest to numerator / denominator, and not 0."""
    return max(1, round(Fraction(numerator, denominator * grid))) * grid
