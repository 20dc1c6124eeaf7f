"""Resolution presets: the shapes around a base resolution, and the index that conditions the denoiser.

The lists are those of the public PanGu Draw 3.0 inference example; the index is the position in the list.
"""

from pangu.errors import UserError

HIGH_RESOLUTION: tuple[tuple[int, int], ...] = (
    (512, 2048), (512, 1920), (768, 1536), (864, 1536), (960, 1280),
    (1024, 1024),
    (1280, 960), (1536, 768), (1920, 512), (2048, 512),
)  # fmt: skip
LOW_RESOLUTION: tuple[tuple[int, int], ...] = (
    (256, 1024), (256, 960), (320, 768), (384, 640), (448, 576),
    (512, 512),
    (576, 448), (640, 384), (768, 320), (960, 256), (1024, 256),
)  # fmt: skip


def presets_for(resolution: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of every preset of a base resolution: the published lists, and one square for any other base."""
    known = {1024: HIGH_RESOLUTION, 512: LOW_RESOLUTION}
    return known.get(resolution, ((resolution, resolution),))


def preset_index(height: int, width: int, resolution: int) -> int:
    """The index of the preset of exactly this size.

    Raises:
        UserError: no preset has that size; the sentence lists those that exist.
    """
    presets = presets_for(resolution)
    if (height, width) not in presets:
        sizes = ", ".join(f"{h}x{w}" for h, w in presets)
        raise UserError(f"No preset is {height}x{width} (height x width); this model knows {sizes}.")
    return presets.index((height, width))
