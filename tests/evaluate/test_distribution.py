"""FID, KID and IS against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from pangu.errors import UserError
from pangu.evaluate.distribution import fid, inception_score, kid
from tests import subtests

checks = subtests.Checks()


def gaussian(count: int, seed: int, shift: float = 0.0, mix: float = 0.0, width: int = 6) -> torch.Tensor:
    """(count, width) correlated Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator, dtype=torch.float64)
    mixing = torch.eye(width, dtype=torch.float64) + mix * torch.ones(width, width, dtype=torch.float64)
    return features @ mixing + shift


@checks
@given(st.integers(0, 100), st.floats(-3, 3), st.floats(0, 2))
def fid_is_the_frechet_distance_of_two_gaussians(seed: int, shift: float, mix: float) -> None:
    real, drawn = gaussian(200, seed), gaussian(150, seed + 1, shift, mix)
    first, second = (np.cov(one.numpy(), rowvar=False) for one in (real, drawn))
    between = (real.mean(0) - drawn.mean(0)).square().sum().item()
    expected = between + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert fid(real, drawn) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@checks
def fid_of_a_set_with_itself_is_nothing() -> None:
    real = gaussian(100, 0)
    assert fid(real, real.flip(0)) == pytest.approx(0, abs=1e-6)


@checks
def fid_of_one_dimension_is_the_textbook_formula() -> None:
    real, drawn = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [7.0]])
    mean, spread = 4.0, np.sqrt(2.0)
    assert fid(real, drawn) == pytest.approx(mean**2 + (3 * spread - spread) ** 2)


@checks
def kid_is_unbiased() -> None:
    """About zero on average over draws of one distribution, from both sides; far from zero for another one."""
    values = np.array([kid(gaussian(40, 2 * seed), gaussian(40, 2 * seed + 1)) for seed in range(60)])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert (values < 0).any()
    assert kid(gaussian(40, 0), gaussian(40, 1, shift=1)) > 20 * values.std()


@checks
def kid_is_the_unbiased_estimator_of_the_cubic_kernel() -> None:
    real, drawn = gaussian(20, 0), gaussian(20, 1, 0.5)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    off = ~torch.eye(20, dtype=torch.bool)
    expected = kernel(real, real)[off].mean() + kernel(drawn, drawn)[off].mean() - 2 * kernel(real, drawn).mean()
    assert kid(real, drawn) == pytest.approx(expected.item(), rel=1e-6)


@checks
def kid_of_subsets_repeats_with_its_seed() -> None:
    real, drawn = gaussian(50, 0), gaussian(30, 1)
    before = torch.random.get_rng_state()
    assert kid(real, drawn, seed=5) == kid(real, drawn, seed=5) != kid(real, drawn, seed=6)
    assert torch.equal(before, torch.random.get_rng_state())


@checks
@given(st.integers(2, 12))
def is_of_certain_and_balanced_predictions_is_the_number_of_classes(classes: int) -> None:
    certain = torch.eye(classes).repeat(5, 1)
    assert inception_score(certain, splits=1) == pytest.approx(classes, rel=1e-5)


@checks
def is_of_equal_predictions_is_one() -> None:
    assert inception_score(torch.tensor([[0.2, 0.3, 0.5]]).repeat(20, 1)) == pytest.approx(1, abs=1e-6)


@checks
def too_few_images_get_one_sentence() -> None:
    with pytest.raises(UserError, match="FID needs at least 2 images on each side, not 1 against 5"):
        fid(torch.zeros(5, 3), torch.zeros(1, 3))
    with pytest.raises(UserError, match="IS over 10 parts needs at least 10 images, not 4"):
        inception_score(torch.ones(4, 2) / 2)


test_distribution = checks.test()
