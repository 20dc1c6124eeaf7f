"""Blur-aware admission: learns on a dataset's own originals from which timestep on each of its upscaled rows may train.

Originals are made small and enlarged again by the card's upscaler; where noise hides the difference is known for them, and the
estimator of `pangu.diffusion.blur_admission` learns to tell it from the enlarged image's spectrum alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.data.card import Admission, Card
from pangu.data.encode.pixels import to_unit
from pangu.data.images import ImageHWC
from pangu.data.prepare.upscale import Upscaler, resize, upscale_to
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.diffusion.blur_admission import Estimator, fit, hiding_noise, spectrum_features
from pangu.diffusion.training_levels import signal_shares
from pangu.models.devices import best_device
from pangu.progress import Progress, Reporter, silent

FACTORS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
FOLD = 32
"""Windows are a multiple of this, px: no autoencoder here shrinks further."""
WINDOW = 96
"""Side of the windows that are compared, px: powers per mode do not depend on it, and all cost does."""
CROP = 120
"""Side of what is enlarged, px: a window, and enough around it that its own pixels do not know where the crop ends. Every
factor divides it, so that nothing is resampled twice."""
BATCH = 8
FEWEST_ORIGINALS = 8
UNCALIBRATED = 300
"""Lowest timestep of upscaled rows where there are too few originals to learn from."""


@dataclass(frozen=True)
class Admitter:
    """The lowest timestep of one upscaled image. Travels to worker processes; no network in it."""

    estimator: Estimator | None
    constant: int
    noise_schedule: NoiseSchedule

    @cached_property
    def _alpha_bar_t(self) -> Tensor:
        return signal_shares(self.noise_schedule)

    def levels(self, settings: Admission) -> AdmissionLevels:
        """In which noise levels, and in whose latents, the lowest timesteps are told."""
        autoencoder = None if self.estimator is None else settings.autoencoder
        return AdmissionLevels(schedule=self.noise_schedule, autoencoder=autoencoder)

    def min_timestep(self, image_hwc: ImageHWC, factor: float) -> int:
        """For an image that was enlarged by `factor` (above 1)."""
        if self.estimator is None:
            return self.constant
        return self.estimator.min_timestep(spectrum_features(image_hwc, factor), self._alpha_bar_t)


@dataclass(frozen=True)
class DegradedOriginal:
    """One original made small and enlarged again: what an estimate sees, and what it should say.

    level: logarithm of noise over signal from which on noise hides the loss.
    """

    image: int
    factor: float
    enlarged_hwc: ImageHWC
    level: float


def make_admitter(card: Card, originals: Sequence[ImageHWC], upscaler: Upscaler, report: Reporter = silent) -> Admitter:
    """Learn from originals; a constant where the card names one, or where there are fewer than `FEWEST_ORIGINALS`."""
    settings = card.upscale.admission
    if card.upscale.min_timestep is not None or len(originals) < FEWEST_ORIGINALS:
        constant = UNCALIBRATED if card.upscale.min_timestep is None else card.upscale.min_timestep
        return Admitter(None, constant, settings.noise_schedule)
    cases = round_trips(card, originals, upscaler, report)
    features = np.stack([spectrum_features(case.enlarged_hwc, case.factor) for case in cases])
    levels, images = np.array([case.level for case in cases]), np.array([case.image for case in cases])
    return Admitter(fit(features, levels, images, settings.confidence), 0, settings.noise_schedule)


def round_trips(
    card: Card, originals: Sequence[ImageHWC], upscaler: Upscaler, report: Reporter = silent
) -> list[DegradedOriginal]:
    """A window of every original at every factor that the card allows, with the noise that hides what was lost."""
    settings = card.upscale.admission
    latents_of = latent_encoder(settings)
    wholes = [shrunk(original, card.upscale.target_side) for original in originals]
    side = min(min(whole.shape[:2]) for whole in wholes)
    crops = [cropped(whole, window_of(number, whole.shape, side)) for number, whole in enumerate(wholes)]
    truth = latents_of([crop[place] for crop, place in crops])
    factors = [one for one in FACTORS if one <= card.upscale.max_factor and side / one >= 8]
    cases: list[DegradedOriginal] = []
    for round_, factor in enumerate(factors):
        enlarged = []
        for number, (crop, place) in enumerate(crops):
            enlarged.append(_round_trip(crop, factor, upscaler)[place])
            done, total = round_ * len(crops) + number + 1, len(factors) * len(crops)
            report(Progress(stage="calibrate", done=done, total=total, unit="windows"))
        levels = hiding_noise(latents_of(enlarged) - truth, settings.visible_share)
        found = enumerate(zip(enlarged, levels, strict=True))
        cases += [DegradedOriginal(number, factor, image, float(level)) for number, (image, level) in found]
    return cases


def cropped(image_hwc: ImageHWC, window: tuple[slice, slice]) -> tuple[ImageHWC, tuple[slice, slice]]:
    """The `CROP` around a window, as much of it as the image has, and where the window lies in it."""
    starts = [
        min(max(0, one.start - (CROP - (one.stop - one.start)) // 2), max(0, length - CROP))
        for one, length in zip(window, image_hwc.shape, strict=False)
    ]
    crop = image_hwc[starts[0] : starts[0] + CROP, starts[1] : starts[1] + CROP]
    rows, columns = (slice(one.start - start, one.stop - start) for one, start in zip(window, starts, strict=True))
    return crop, (rows, columns)


def shrunk(image_hwc: ImageHWC, side: int) -> ImageHWC:
    """Scaled so that the smaller side is `side` px; never enlarged, because that would be no truth about detail."""
    height, width, _ = image_hwc.shape
    scale = side / min(height, width)
    return image_hwc if scale >= 1 else resize(image_hwc, round(width * scale), round(height * scale))


def _round_trip(whole_hwc: ImageHWC, factor: float, upscaler: Upscaler) -> ImageHWC:
    height, width, _ = whole_hwc.shape
    small = resize(whole_hwc, max(1, round(width / factor)), max(1, round(height / factor)))
    enlarged, _ = upscale_to(small, min(height, width), upscaler)
    return enlarged if enlarged.shape == whole_hwc.shape else resize(enlarged, width, height)


def window_of(number: int, shape: Sequence[int], side: int) -> tuple[slice, slice]:
    """The square window of an image that is compared; anywhere in it, but always the same.

    side: of the smallest image, px; all windows have one size.
    """
    digest = hashlib.sha256(str(number).encode()).digest()
    window = min(WINDOW, side) // FOLD * FOLD or side
    starts = [
        int.from_bytes(digest[4 * i : 4 * i + 4], "big") % (length - window + 1) for i, length in enumerate(shape[:2])
    ]
    return slice(starts[0], starts[0] + window), slice(starts[1], starts[1] + window)


def latent_encoder(settings: Admission) -> Callable[[Sequence[ImageHWC]], Tensor]:
    """A function from images of one size to (N, C, H, W): latents of the card's autoencoder, or pixels as [-1, 1]."""
    if settings.autoencoder is None:
        return lambda images: to_unit(np.stack(images))
    # It brings diffusers along, which most worker processes never need.
    from pangu.data.encode.view_latents import pixel_latents
    from pangu.models.autoencoders import load_autoencoder

    autoencoder: Any = load_autoencoder(settings.autoencoder).to(best_device())
    batches = lambda images: (images[start : start + BATCH] for start in range(0, len(images), BATCH))  # noqa: E731
    return lambda images: torch.cat([pixel_latents(np.stack(batch), autoencoder).cpu() for batch in batches(images)])
