"""Where to put T_struct: two marks on the axis of timesteps, and the rule between them.

PanGu-Draw sets T_struct = 500 by experience. Ours is a measurement of the two things that bound it. Below `detail_mark` an
upscaled image still differs visibly from the original that it stands for, so the generator that trains on upscaled images
must not go lower. Above `layout_mark` the layout is still open, so the generator that trains at low resolution must not go
higher.
Pure; knows nothing of networks, datasets or pictures.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pangu.config import Frozen
from pangu.errors import UserError

Floats = npt.NDArray[np.float64]

VISIBLE_SHARE = 0.1
"""Of the lost detail's power. A half is where noise and detail are equally strong; a tenth leaves room for networks that guess
better than the linear denoiser of `visible_detail`, because edges are no Gaussian noise."""
FLAT = 0.05
"""A curve that rises by less than this share has no elbow."""


class Recommendation(Frozen):
    """T_struct in (0, T), and the two marks that it follows from.

    has_window: whether detail_mark <= layout_mark, so that some boundary respects both.
    min_timestep: the lowest timestep that upscaled rows may train (`upscale.min_timestep` of the card).
    """

    boundary: int
    detail_mark: int
    layout_mark: int
    min_timestep: int
    has_window: bool


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, (size, size) float64: row k holds the cosine of frequency k."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (index[None] + 0.5) * index[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def frequencies(latents_nchw: Tensor) -> Tensor:
    """The two-dimensional DCT of each channel, (N, C, H, W) float64: white noise stays white, position becomes frequency."""
    height, width = latents_nchw.shape[-2:]
    return dct_matrix(height) @ latents_nchw.double() @ dct_matrix(width).T


def low_band(frequencies_nchw: Tensor, share: float) -> Tensor:
    """The coefficients (N, C, h, w) of the lowest `share` of frequencies along each side: what a smaller image still holds."""
    height, width = frequencies_nchw.shape[-2:]
    return frequencies_nchw[..., : max(1, round(height * share)), : max(1, round(width * share))]


def mode_powers(lost_nchw: Tensor) -> Tensor:
    """Mean power of each independent mode of latent differences, (H * W * C,) float64, against noise of power 1.

    Modes are frequencies along the sides and principal axes across channels, because autoencoders keep fine detail in
    channels as well as in positions.
    """
    spectrum = frequencies(lost_nchw).permute(2, 3, 0, 1)
    second_moment = spectrum.transpose(-1, -2) @ spectrum / len(lost_nchw)
    return torch.linalg.eigvalsh(second_moment).clamp_min(0).flatten()


def visible_detail(power_m: Tensor, alpha_bar_t: Tensor) -> Floats:
    """The share of the lost detail's power that z_t still shows, (T,) in [0, 1], falling with t.

    sum_m p_m w_m / sum_m p_m, with the Wiener gain w_m = ab p_m / (ab p_m + 1 - ab): what the best linear denoiser recovers
    from z_t if everything but the detail is known to it. Ours; the gain is the textbook's.
    """
    power, alpha_bar = power_m.double()[None], alpha_bar_t.double()[:, None]
    if not float(power.sum()) > 0:
        return np.zeros(len(alpha_bar_t))
    gain = alpha_bar * power / (alpha_bar * power + 1 - alpha_bar)
    return ((power * gain).sum(1) / power.sum()).numpy()


def detail_mark(visible_t: Floats, share: float = VISIBLE_SHARE) -> int:
    """The first timestep at which no more than `share` of the lost detail is visible; T if there is none."""
    hidden = np.flatnonzero(visible_t <= share)
    return int(hidden[0]) if len(hidden) else len(visible_t)


def layout_mark(timestep_k: Floats, unknown_k: Floats) -> int:
    """The elbow of a rising curve, as a timestep: where the share of the layout that z_t leaves open takes off.

    The point farthest below the chord, both axes scaled to [0, 1] (Kneedle: Satopaa et al. 2011, Section III).

    Raises:
        UserError: fewer than three points, or a curve so flat that it has no elbow.
    """
    if len(timestep_k) < 3:
        raise UserError(f"An elbow needs a curve of at least 3 points, not {len(timestep_k)}.")
    height = unknown_k.max() - unknown_k[0]
    if height < FLAT:
        raise UserError(
            f"The probe knows the layout at every timestep (its curve rises by {height:.3f} only), so it has no elbow; "
            f"measure it on rows that it never trained, or probe with fewer steps."
        )
    x = (timestep_k - timestep_k[0]) / (timestep_k[-1] - timestep_k[0])
    y = (unknown_k - unknown_k[0]) / height
    return int(timestep_k[np.argmax(x - y)])


def recommend(detail: int, layout: int, num_train_timesteps: int) -> Recommendation:
    """The boundary between the marks: as far from either harm where there is room, else where the layout is decided.

    Without room, upscaled rows keep off the steps that would show their blur by their own `min_timestep`, so that the layout
    need not pay for them.
    """
    has_window = detail <= layout
    grid = max(1, num_train_timesteps // 100)
    wanted = (detail + layout) / 2 if has_window else layout
    boundary = min(max(grid, round(wanted / grid) * grid), num_train_timesteps - grid)
    return Recommendation(
        boundary=boundary,
        detail_mark=detail,
        layout_mark=layout,
        min_timestep=min(detail, num_train_timesteps - grid),
        has_window=has_window,
    )
