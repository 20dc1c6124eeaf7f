"""Colour profiles: pixels as a file stores them -> sRGB, which is what everything behind the reader expects.

Profiles are applied by Little CMS, relative colorimetric with black-point compensation. A profile that cannot be read, or is of
another colour space than the pixels, says nothing, and the pixels are taken for sRGB. The PNG chunks gAMA, cHRM and sRGB, and
the colour codes (CICP) of PNG and AVIF, are not read: Pillow applies none of them, and nearly every file that has them says sRGB.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 << 20
"""Longer ones are taken for broken: those of printing presses have 2 MB, and a few are kept in memory."""
SAME_LEVELS = 2
"""A profile that moves no colour by more levels than this (of 255) is sRGB: the many profiles of that name differ by as much."""
MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
GRID = np.linspace(0, 255, 9).round().astype(np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bool]:
    """An L, RGB, CMYK or LAB image as RGB in sRGB, and whether the profile changed any colour of it.

    profile: the ICC profile that came with the pixels; None: sRGB, for CMYK Pillow's plain inversion.
    """
    known = _transform(profile, image.mode) if profile and len(profile) <= MAX_PROFILE_BYTES else None
    if known is None and image.mode == "LAB":
        known = (
            "LAB",
            ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"),
        )
    if known is None:
        return image.convert("RGB"), False
    mode, transform = known
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert converted is not None, "only a conversion in place returns nothing"
    return converted, True


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The mode that a profile converts from, and how; None where it is broken, of other pixels, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = MODE_OF_SPACE.get(source.profile.xcolor_space.strip())
        if wanted is None or (wanted != mode and (wanted, mode) != ("RGB", "L")):
            return None
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if wanted == "L":  # its short cut is no faster, and wrong by up to 10 levels in the dark
            flags |= ImageCms.Flags.NOOPTIMIZE
        relative, srgb = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, wanted, "RGB", relative, flags)
        return None if _keeps_colours(transform, wanted) else (wanted, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _keeps_colours(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform of gray or RGB leaves a grid of colours as they are."""
    if mode not in ("L", "RGB"):
        return False
    grid = np.arange(256, dtype=np.uint8)[None]
    if mode == "RGB":
        grid = np.stack(np.meshgrid(GRID, GRID, GRID), -1).reshape(1, -1, 3)
    colours = Image.fromarray(grid)
    converted = ImageCms.applyTransform(colours, transform)
    assert converted is not None, "only a conversion in place returns nothing"
    moved = np.abs(np.asarray(converted).astype(int) - np.asarray(colours.convert("RGB")))
    return bool(moved.max() <= SAME_LEVELS)
