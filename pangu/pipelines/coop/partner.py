"""What a user says about a partner: which model, how strongly, when, and with which conditions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pangu.diffusion.fusion import Weight
from pangu.errors import UserError

Strength = float | Sequence[float] | Callable[[int, int], float]
"""d of Eq. 5: one number, one for each step, or a function of (step, number of steps). All in [0, 1]."""


@dataclass(frozen=True)
class Partner:
    """One model that helps the main one, and how (PanGu-Draw, Algorithm 1; there, the model with the primes).

    source:    a diffusers pipeline, or a folder or hub id of one.
    name:      how sentences and plans call it.
    strength:  d of Eq. 5. mask, where given, multiplies it: (H, W) in [0, 1], in pixels of the main's image or in its latents.
    start, stop: the part of the steps it takes part in, as fractions; every: it is asked at each `every`-th step of those.
    prompt, negative_prompt, guidance_scale: its own; None means the main's.
    image:     what an image variation varies, or the control image(s) of its ControlNet(s), in its own size.
    conditioning_scale: of its ControlNet(s).
    controlnet: ControlNet(s) to put on the source: models, folders or hub ids.
    height, width: of its own pictures, px; None means the main's. upsample: how pixels change their size between the two.
    bridge_vae: a smaller autoencoder of the same latents, such as a tiny one, for the bridge alone.
    latents:   its first noise, unit Gaussian, in the place of drawn noise.
    extra:     further arguments of its adapter, such as `styles` of a pair or `true_cfg_scale` of Flux.
    """

    source: Any
    name: str | None = None
    strength: Strength = 0.5
    mask: Any = None
    start: float = 0.0
    stop: float = 1.0
    every: int = 1
    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    guidance_scale: float | None = None
    image: Any = None
    conditioning_scale: float | list[float] = 1.0
    controlnet: Any = None
    height: int | None = None
    width: int | None = None
    upsample: str | None = None
    bridge_vae: Any = None
    latents: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, values: Mapping[str, Any]) -> "Partner":
        """The same partner with other values for one call.

        Raises:
            UserError: a name that is no field, or one that only a new CoopPipeline can change.
        """
        fixed = {"source", "name", "controlnet", "bridge_vae"}
        free = [entry.name for entry in fields(self) if entry.name not in fixed]
        unknown = [name for name in values if name not in free]
        if unknown:
            raise UserError(f"partners of one call may change {', '.join(free)}, not '{unknown[0]}'.")
        return replace(self, **values)


def names_of(partners: Sequence[Partner]) -> list[str]:
    """The users' names; partners without one are numbered.

    Raises:
        UserError: two partners of one name.
    """
    alone = len(partners) == 1
    names = [partner.name or ("partner" if alone else f"partner {index + 1}") for index, partner in enumerate(partners)]
    twice = [name for name, times in Counter([*names, "main"]).items() if times > 1]
    if twice:
        raise UserError(f"Two models are called '{twice[0]}'; give each partner a name of its own.")
    return names


def strengths(partner: Partner, who: str, steps: int) -> list[float]:
    """d at each of the user's steps; 0 outside the partner's range.

    Raises:
        UserError: a value outside [0, 1], a list of the wrong length, or an empty range.
    """
    if not (0 <= partner.start < partner.stop <= 1):
        raise UserError(f"{who}: start and stop need 0 <= start < stop <= 1, not {partner.start} and {partner.stop}.")
    if not isinstance(partner.every, int) or partner.every < 1:
        raise UserError(f"{who}: every must be a whole number of at least 1, not {partner.every}.")
    given = partner.strength
    if callable(given):
        values = [float(given(step, steps)) for step in range(steps)]
    elif isinstance(given, (int, float)):
        values = [float(given)] * steps
    else:
        values = [float(value) for value in given]
        if len(values) != steps:
            raise UserError(f"{who}: strength is a list of {len(values)}, but there are {steps} steps; give one each.")
    for step, value in enumerate(values):
        if not 0 <= value <= 1:
            raise UserError(f"{who}: strength must lie in [0, 1], but is {value:g} at step {step}.")
    return [value if partner.start <= step / steps < partner.stop else 0.0 for step, value in enumerate(values)]


def check_sum(all_strengths: Sequence[Sequence[float]], masked: Sequence[bool]) -> None:
    """Raises UserError if partners without a mask take more than everything at some step."""
    unmasked = [values for values, has_mask in zip(all_strengths, masked, strict=True) if not has_mask]
    for step, values in enumerate(zip(*unmasked, strict=True)):
        if sum(values) > 1 + 1e-9:
            raise UserError(
                f"The strengths of the partners add up to {sum(values):g} at step {step}; at most 1 is left to give."
            )


def check_masks(weights: Sequence[Weight]) -> None:
    """Raises UserError if masks and strengths together take more than everything somewhere."""
    total = sum(weights)
    if isinstance(total, Tensor) and bool((total > 1 + 1e-5).any()):
        raise UserError(
            f"Strengths and masks of the partners add up to {float(total.max()):.3g} somewhere; at most 1 is left to give."
        )


def mask_plane(mask: Any, who: str) -> Tensor:
    """A mask as (H, W) float32 in [0, 1], from a tensor, an array, or a PIL image (white is 1).

    Raises:
        UserError: another shape, or values outside [0, 1].
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"), np.float32) / 255
    plane = torch.as_tensor(mask).float()
    if plane.ndim != 2:
        raise UserError(f"{who}: mask must have the shape (height, width), not {tuple(plane.shape)}.")
    if bool((plane < 0).any()) or bool((plane > 1).any()) or not bool(plane.isfinite().all()):
        raise UserError(f"{who}: mask must lie in [0, 1].")
    return plane


def mask_on(plane_hw: Tensor, pixels: tuple[int, int], grids: Sequence[tuple[int, int]], who: str) -> list[Tensor]:
    """The mask on each grid of latents, (1, 1, h, w): the mean over the pixels of each latent.

    A mask may be given in the main's `pixels`, or on a grid that all of them share.

    Raises:
        UserError: any other shape; the sentence says which fit.
    """
    shape = tuple(plane_hw.shape)
    if shape != pixels and any(shape != grid for grid in grids):
        fits = f"{pixels[0]}x{pixels[1]}" + (f" or {grids[0][0]}x{grids[0][1]}" if len(set(grids)) == 1 else "")
        raise UserError(f"{who}: mask is {shape[0]}x{shape[1]} (height x width), but {fits} fits.")
    return [adaptive_avg_pool2d(plane_hw[None, None], grid).clamp(0, 1) for grid in grids]
