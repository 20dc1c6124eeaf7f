"""Where to put T_struct: two marks on the axis of timesteps, and the rule between them.

PanGu-Draw sets T_struct = 500 by experience. Ours is a measurement. Below `detail_mark` an upscaled image still differs visibly
from the original that it stands for, so the generator that trains on upscaled images must not go lower. At `layout_mark` half
of the layout is decided, so each generator has its half of that work. T_struct is the layout mark, or the detail mark
where that is higher.
Pure.
"""

import math
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from pangu.config import Frozen
from pangu.diffusion.blur_admission import VISIBLE_SHARE, Floats, detail_mark, frequencies, mode_powers, visible_detail
from pangu.errors import UserError

__all__ = [
    "VISIBLE_SHARE", "Floats", "Recommendation", "detail_mark", "elbow", "frequencies", "layout_mark", "low_band", "mode_powers",
    "recommend", "visible_detail",
]  # fmt: skip

DECIDED_SHARE = 0.5
"""Of the layout that the caption alone leaves open."""
FLAT = 0.05
"""A probe that leaves less than this share of the layout open at pure noise has learnt its images by heart."""


class Recommendation(Frozen):
    """T_struct in (0, T), and the marks that it follows from, all as timesteps.

    bound_by: which mark decided. 'detail' means that texture decides more than half of the layout; a lower boundary needs
        upscaled rows kept off by `upscale.min_timestep` of the card.
    elbow: where the curve of the open layout takes off (Kneedle). Reported, not used: it moved by 100 timesteps between samples
        of one corpus on which the layout mark moved by 30, and two halves of a pair that differ at their boundary hide it.
    """

    boundary: int
    bound_by: Literal["layout", "detail"]
    detail_mark: int = Field(description="Also what `upscale.min_timestep` of the card should be at least")
    layout_mark: int
    elbow: int


def low_band(frequencies_nchw: Tensor, share: float) -> Tensor:
    """The coefficients (N, C, h, w) of the lowest `share` of frequencies along each side: what a smaller image still holds."""
    height, width = frequencies_nchw.shape[-2:]
    return frequencies_nchw[..., : max(1, round(height * share)), : max(1, round(width * share))]


def layout_mark(timestep_k: Floats, unknown_k: Floats, share: float = DECIDED_SHARE) -> int:
    """The timestep at which the open share of the layout first reaches `share` of what it is at pure noise.

    Raises:
        UserError: the probe knows the layout without looking at z_t.
    """
    at_noise = float(unknown_k[-max(1, len(unknown_k) // 10) :].mean())
    if at_noise < FLAT:
        raise UserError(
            f"The probe knows the layout from the caption alone (it leaves {at_noise:.3f} of it open at pure noise); "
            f"measure it on rows that it never trained, or probe with fewer steps."
        )
    reached = int(np.argmax(unknown_k >= share * at_noise))
    if reached == 0:
        return int(timestep_k[0])
    between = slice(reached - 1, reached + 1)
    return int(np.interp(share * at_noise, unknown_k[between], timestep_k[between]))


def elbow(timestep_k: Floats, unknown_k: Floats) -> int:
    """The point of a rising curve farthest below its chord, both axes scaled to [0, 1] (Satopaa et al. 2011, Section III)."""
    x = (timestep_k - timestep_k[0]) / (timestep_k[-1] - timestep_k[0])
    y = (unknown_k - unknown_k[0]) / max(float(unknown_k.max() - unknown_k[0]), 1e-12)
    return int(timestep_k[np.argmax(x - y)])


def recommend(visible_t: Floats, timestep_k: Floats, unknown_k: Floats, share: float = VISIBLE_SHARE) -> Recommendation:
    """The boundary for a curve of visible detail over [0, T) and a probe's curve of open layout.

    Raises:
        UserError: the probe knows the layout without looking at z_t.
    """
    total = len(visible_t)
    detail, layout = detail_mark(visible_t, share), layout_mark(timestep_k, unknown_k)
    grid = max(1, total // 100)
    # Rounded up, so that rounding never crosses the detail mark.
    rounded = math.ceil(max(detail, layout) / grid) * grid
    return Recommendation(
        boundary=min(max(grid, rounded), total - grid),
        bound_by="detail" if detail > layout else "layout",
        detail_mark=detail,
        layout_mark=layout,
        elbow=elbow(timestep_k, unknown_k),
    )
