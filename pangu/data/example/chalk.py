"""A style of its own for the example: OpenMoji's drawings as if drawn in chalk on a blackboard. Pure; no files, no network."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from pangu.data.example.openmoji import Emoji, render_png
from pangu.data.images import ImageHWC, decode_rgb

STYLE = "chalk"
PLAIN_EVERY = 2
"""One drawing of so many is listed as it is, too."""
BOARD, CHALK = (38, 58, 52), (240, 238, 226)
"""RGB of the ground and of the lines."""
TINT = 0.78, 0.12, 0.10
"""What a pure colour turns into: shares of itself, of chalk and of board."""


def chalked(image_hwc: ImageHWC) -> ImageHWC:
    """The drawing with white turned into board, black into chalk, and colours into muted tints.

    Each pixel is a mixture of white, black and one pure colour (its smallest channel, what its largest lacks, the rest), and the
    result mixes what these turn into by the same shares; so edges stay as smooth as they were.
    """
    pixels = image_hwc.astype(np.float32) / 255
    white, largest = pixels.min(-1, keepdims=True), pixels.max(-1, keepdims=True)
    pure, board, chalk = largest - white, np.array(BOARD, np.float32), np.array(CHALK, np.float32)
    tint = TINT[0] * 255 * (pixels - white) + pure * (TINT[1] * chalk + TINT[2] * board)
    return np.rint(white * board + (1 - largest) * chalk + tint).clip(0, 255).astype(np.uint8)


def in_chalk(drawings: Sequence[Emoji]) -> list[Emoji]:
    """Every drawing in chalk, then some as they are: a pair tuned to chalk alone would forget the look it had."""
    return [*(replace(one, style=STYLE) for one in drawings), *drawings[::PLAIN_EVERY]]


def render_styled(one: Emoji, side: int) -> bytes:
    """The drawing in its style, chalk or OpenMoji's own, as a `side` x `side` RGB PNG."""
    return render_chalk(one, side) if one.style == STYLE else render_png(one, side)


def render_chalk(one: Emoji, side: int) -> bytes:
    """The drawing in chalk as a `side` x `side` RGB PNG."""
    buffer = io.BytesIO()
    Image.fromarray(chalked(decode_rgb(render_png(one, side)).image_hwc)).save(buffer, "PNG")
    return buffer.getvalue()
