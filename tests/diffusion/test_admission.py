"""Noise hides what is small, white and weak first, and the estimate covers as many images as it promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.config import NoiseSchedule
from pangu.diffusion.blur_admission import (
    detail_mark,
    first_noisier,
    fit,
    hiding_noise,
    log_noise,
    mode_powers,
    spectrum_features,
    visible_detail,
)
from pangu.diffusion.training_levels import alpha_bars
from tests import subtests

checks = subtests.Checks()

LINE = np.array([-3.0, 2.5, 0.5, 0.7, 0.2])
ALPHA_BAR = alpha_bars(NoiseSchedule())


def lost(power: float, count: int = 12, seed: int = 0) -> torch.Tensor:
    return power**0.5 * torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


@checks
def timesteps_and_noise_levels_are_inverse_to_each_other() -> None:
    levels = log_noise(ALPHA_BAR)
    assert [first_noisier(levels[t], ALPHA_BAR) for t in (0, 1, 300, 999)] == [0, 1, 300, 999]
    assert first_noisier(100.0, ALPHA_BAR) == 999 and first_noisier(-100.0, ALPHA_BAR) == 0


@checks
def an_image_of_mean_power_is_hidden_where_the_group_is() -> None:
    # Equal powers: own over mean power is 1, so the closed form is the group's mark.
    same = lost(0.3)
    same = same / same.square().mean((1, 2, 3), keepdim=True).sqrt() * 0.5
    group = detail_mark(visible_detail(mode_powers(same), ALPHA_BAR))
    assert [first_noisier(level, ALPHA_BAR) for level in hiding_noise(same)] == [group] * len(same)


@checks
@given(st.floats(0.01, 100.0))
def detail_of_twice_the_power_takes_twice_the_noise(scale: float) -> None:
    levels = hiding_noise(lost(0.1))
    assert np.allclose(hiding_noise(lost(0.1) * scale**0.5), levels + np.log(scale), atol=1e-6)


@checks
def nothing_lost_is_hidden_from_the_start() -> None:
    assert {first_noisier(level, ALPHA_BAR) for level in hiding_noise(torch.zeros(3, 2, 4, 4))} == {0}
    levels = hiding_noise(torch.cat([torch.zeros(1, 3, 8, 8), lost(1.0, 5)]))
    assert first_noisier(levels[0], ALPHA_BAR) == 0 < first_noisier(levels[1], ALPHA_BAR)


@checks
def features_see_blur_and_not_which_way_up_or_how_bright() -> None:
    sharp = np.random.default_rng(0).integers(40, 200, (64, 64, 3), np.uint8)
    blurry = np.asarray(Image.fromarray(sharp).resize((32, 32)).resize((64, 64), Image.Resampling.BICUBIC))
    assert spectrum_features(blurry, 2.0)[4] < spectrum_features(sharp, 2.0)[4] - 1
    for other in (sharp.transpose(1, 0, 2), sharp[::-1], sharp + np.uint8(50)):
        assert np.allclose(spectrum_features(other, 2.0), spectrum_features(sharp, 2.0))


def cases(images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of `images` images at four factors, and levels that follow a line with noise of their own."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), 4)
    factor = np.tile(np.log([1.5, 2, 3, 4]), images)
    features = np.stack([np.ones(4 * images), factor, factor**2, *rng.normal(size=(2, 4 * images))], 1)
    levels = features @ LINE + rng.standard_t(4, 4 * images) * 0.4
    return features, levels, image


@subtests.parametrize("confidence", [0.5, 0.8, 0.95])
def test_the_estimate_covers_as_many_unseen_images_as_it_promises(confidence: float) -> None:
    estimator = fit(*cases(200, 1), confidence)
    features, levels, _ = cases(2000, 2)
    covered = np.mean(levels <= features @ np.array(estimator.weights) + estimator.margin)
    assert covered == pytest.approx(confidence, abs=0.05)
    assert np.abs(features @ (np.array(estimator.weights) - LINE)).mean() < 0.15


@checks
def a_noisier_level_never_gives_an_earlier_timestep() -> None:
    estimator = fit(*cases(50, 3), 0.9)
    features = np.array([[1.0, f, f * f, 0.0, 0.0] for f in np.log(np.linspace(1.1, 8, 30))])
    marks = [estimator.min_timestep(row, ALPHA_BAR) for row in features]
    assert marks == sorted(marks) and marks[0] >= 0 and marks[-1] <= 999


test_admission = checks.test()
