"""Properties of the equations that fuse predictions of different models."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.diffusion.fusion import (
    NoiseLevel,
    Prediction,
    clean_from_prediction,
    fuse,
    prediction_from_clean,
    remaining,
    renoised,
    rescaled,
    without,
)
from tests import subtests
from tests.closed_forms import add_noise, clean_from_epsilon, clean_from_velocity, epsilon_from_clean, velocity

checks = subtests.Checks()

KINDS = ["epsilon", "v_prediction", "sample", "flow_prediction", "edm_epsilon", "edm_v_prediction"]


def tensors(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(count)]


levels = st.tuples(st.floats(0.01, 1), st.floats(0.01, 20)).map(lambda pair: NoiseLevel(*pair))


@subtests.parametrize("kind", KINDS)
@given(level=levels)
def test_every_prediction_gives_its_clean_data_back(kind, level) -> None:
    clean, noise = tensors(2)
    noisy, prediction = renoised(clean, noise, level), Prediction(kind, 0.5)
    predicted = prediction_from_clean(noisy, clean, level, prediction)
    torch.testing.assert_close(clean_from_prediction(noisy, predicted, level, prediction), clean, rtol=1e-8, atol=1e-8)


@given(st.floats(0.001, 0.999))
def test_noise_and_velocity_are_those_of_the_paper(alpha_bar) -> None:
    clean, noise = tensors(2)
    level, each = NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)), torch.full((2,), alpha_bar)
    noisy, v = add_noise(clean, noise, each), velocity(clean, noise, each)
    for kind, predicted, theirs in (
        ("epsilon", noise, clean_from_epsilon(noisy, noise, each)),
        ("v_prediction", v, clean_from_velocity(noisy, v, each)),
    ):
        ours = clean_from_prediction(noisy, predicted, level, Prediction(kind))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours = prediction_from_clean(noisy, clean, level, Prediction("epsilon"))
    torch.testing.assert_close(ours, epsilon_from_clean(noisy, clean, each), rtol=1e-4, atol=1e-4)


@checks
@given(st.floats(0.01, 1))
def flow_is_noise_minus_data_also_at_pure_noise(s) -> None:
    clean, noise = tensors(2)
    level = NoiseLevel(1 - s, s)
    predicted = prediction_from_clean(renoised(clean, noise, level), clean, level, Prediction("flow_prediction"))
    torch.testing.assert_close(predicted, noise - clean, rtol=1e-8, atol=1e-8)


@checks
@given(levels, st.floats(0.1, 10))
def a_rescaled_sample_has_the_same_noise_and_the_same_data(level, factor) -> None:
    clean, noise = tensors(2)
    other = NoiseLevel(level.signal * factor, level.sigma * factor)
    assert math.isclose(level.log_snr, other.log_snr, abs_tol=1e-9)
    moved = rescaled(renoised(clean, noise, level), level, other)
    torch.testing.assert_close(moved, renoised(clean, noise, other), rtol=1e-8, atol=1e-8)


@subtests.parametrize("kind", KINDS)
@given(level=levels, weight=st.floats(0, 1))
def test_fused_predictions_are_the_prediction_of_fused_data(kind, level, weight) -> None:
    noisy, one, other = tensors(3)
    prediction = Prediction(kind, 0.5)
    both = [prediction_from_clean(noisy, clean, level, prediction) for clean in (one, other)]
    fused = fuse(both[0], [both[1]], [weight])
    expected = prediction_from_clean(noisy, fuse(one, [other], [weight]), level, prediction)
    torch.testing.assert_close(fused, expected, rtol=1e-8, atol=1e-8)


@checks
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def fusion_is_a_mean_and_its_order_does_not_matter(values) -> None:
    weights = [value / max(1, len(values)) for value in values]
    own, *others = tensors(len(weights) + 1)
    torch.testing.assert_close(fuse(own, [own] * len(weights), weights), own, rtol=1e-9, atol=1e-9)
    backwards = fuse(own, others[::-1], weights[::-1])
    torch.testing.assert_close(fuse(own, others, weights), backwards, rtol=1e-9, atol=1e-9)
    assert math.isclose(float(remaining(weights)) + sum(weights), 1, abs_tol=1e-9)


@checks
def nothing_and_everything_keep_the_bits() -> None:
    own, other = tensors(2)
    assert torch.equal(fuse(own, [other], [0.0]), own)
    assert torch.equal(fuse(own, [other], [1.0]), other)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    fused = fuse(own, [other], [mask])
    assert torch.equal(fused[..., :2], other[..., :2])
    assert torch.equal(fused[..., 2:], own[..., 2:])


@checks
@given(st.floats(0, 0.9), st.floats(0, 0.1))
def without_one_partner_the_others_are_left(weight, second) -> None:
    own, other, third = tensors(3)
    left = without(fuse(own, [other, third], [weight, second]), other, weight)
    torch.testing.assert_close(left, fuse(own, [third], [second / (1 - weight)]), rtol=1e-6, atol=1e-6)


@checks
def without_everything_stays_finite() -> None:
    own, other = tensors(2)
    mask = torch.linspace(0, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    left = without(fuse(own, [other], [mask]), other, mask)
    assert left.isfinite().all()
    torch.testing.assert_close(left[..., :3, :], own[..., :3, :], rtol=1e-6, atol=1e-6)
    assert torch.equal(without(other, other, 1.0), other)


test_fusion = checks.test()
