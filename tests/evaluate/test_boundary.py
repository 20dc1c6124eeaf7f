"""The boundary finder on data whose answer is known in closed form, and end to end on a small dataset."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from pangu.config import NoiseSchedule
from pangu.data.card import load_card
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.training_levels import alpha_bars, training_levels
from pangu.errors import UserError
from pangu.evaluate.boundary import (
    detail_mark,
    elbow,
    frequencies,
    layout_mark,
    low_band,
    mode_powers,
    recommend,
    visible_detail,
)
from pangu.evaluate.boundary_outcome import BoundaryOutcome
from pangu.evaluate.boundary_probe import find_boundary, probe_curve
from pangu.evaluate.timestep_loss import CleanLatents
from tests import subtests

checks = subtests.Checks()

SCHEDULE = NoiseSchedule(prediction_type="epsilon")


def first_timestep_below(snr: float) -> int:
    """Where the schedule's signal-to-noise ratio first falls to `snr`."""
    return int(np.flatnonzero(training_levels(SCHEDULE).level(torch.arange(1000)).log_snr.exp().numpy() <= snr)[0])


def wiener(power_hw: torch.Tensor):
    """The best denoiser of Gaussian latents whose DCT coefficients have the given powers; it predicts noise."""
    alpha_bar_t = alpha_bars(SCHEDULE)

    def predict(noisy, timestep, tokens, pooled):
        alpha_bar = alpha_bar_t[timestep].double().reshape(-1, 1, 1, 1)
        gain = alpha_bar.sqrt() * power_hw / (alpha_bar * power_hw + 1 - alpha_bar)
        spectrum = frequencies(noisy)
        clean = torch.from_numpy(dctn((spectrum * gain).numpy(), type=3, norm="ortho", axes=(2, 3)))
        return ((noisy.double() - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()).float()

    return predict


def gaussian_latents(power_hw: torch.Tensor, count: int) -> torch.Tensor:
    spectrum = torch.randn(count, 3, *power_hw.shape, generator=torch.Generator().manual_seed(1)) * power_hw.sqrt()
    return torch.from_numpy(dctn(spectrum.numpy(), type=3, norm="ortho", axes=(2, 3)))


@checks
def frequencies_are_the_orthonormal_cosine_transform() -> None:
    latents = torch.randn(2, 3, 8, 6)
    np.testing.assert_allclose(
        frequencies(latents), dctn(latents.double().numpy(), norm="ortho", axes=(2, 3)), atol=1e-12
    )
    assert frequencies(latents).square().sum() == pytest.approx(latents.double().square().sum().item())
    assert low_band(frequencies(latents), 0.5).shape == (2, 3, 4, 3)
    assert low_band(frequencies(latents), 0.01).shape == (2, 3, 1, 1)


@checks
@given(st.floats(0.05, 5), st.floats(0.1, 0.9))
def white_detail_is_lost_where_its_snr_says(power: float, share: float) -> None:
    """One power p everywhere: the visible share is p SNR / (p SNR + 1), whatever the shape."""
    visible = visible_detail(torch.full((30,), power), alpha_bars(SCHEDULE))
    snr = training_levels(SCHEDULE).level(torch.arange(1000)).log_snr.double().exp().numpy()
    np.testing.assert_allclose(visible, power * snr / (power * snr + 1), rtol=1e-4)
    expected = first_timestep_below(share / (1 - share) / power)
    assert abs(detail_mark(visible, share) - expected) <= 1


@checks
def modes_are_found_wherever_the_detail_lies() -> None:
    """In one direction of the channels at one frequency: one mode holds all of the power."""
    direction = torch.nn.functional.normalize(torch.randn(5), dim=0)
    strength = torch.randn(4000, 1, 1, 1) * 3.0
    spectrum = torch.zeros(4000, 5, 4, 4)
    spectrum[:, :, 2, 3] = (strength * direction.reshape(1, 5, 1, 1))[:, :, 0, 0]
    powers = mode_powers(torch.from_numpy(dctn(spectrum.numpy(), type=3, norm="ortho", axes=(2, 3)))).sort().values
    assert powers[-1] == pytest.approx(9, rel=0.1)
    assert powers[:-1].max() < 1e-6


@checks
def no_lost_detail_is_visible_nowhere() -> None:
    assert detail_mark(visible_detail(torch.zeros(10), alpha_bars(SCHEDULE))) == 0
    assert detail_mark(np.ones(1000)) == 1000


@subtests.parametrize("power", [0.5, 4.0])
def test_the_layout_of_gaussian_latents_is_half_decided_where_signal_equals_noise(power: float) -> None:
    """Low frequencies of power P under the best denoiser: open share 1 / (1 + P SNR), one half at SNR = 1 / P."""
    power_hw = torch.full((8, 8), 0.05, dtype=torch.float64)
    power_hw[:4, :4] = power
    latents = gaussian_latents(power_hw, 96)
    sample = CleanLatents(latents.float(), torch.zeros(96, 1, 1), torch.zeros(96, 1))
    denoisers = [(TimeInterval(0, 1000), wiener(power_hw))]
    curve = probe_curve(denoisers, sample, SCHEDULE, 0.5, np.zeros(1000), seed=0)
    t, unknown = (np.array([getattr(point, name) for point in curve]) for name in ("timestep", "unknown_layout"))
    snr = np.exp([point.log_snr for point in curve])
    # The first part holds t = 0, where the signal-to-noise ratio changes tenfold.
    np.testing.assert_allclose(unknown[1:], 1 / (1 + power * snr[1:]), rtol=0.12)
    assert abs(layout_mark(t, unknown) - first_timestep_below(1 / power)) <= 30


@checks
@given(st.integers(100, 900))
def the_elbow_of_a_bent_line_is_its_bend(bend: int) -> None:
    t = np.arange(0, 1001, 20.0)
    curve = np.where(t < bend, 0.02 * t / bend, 0.02 + 0.98 * (t - bend) / (1000 - bend))
    assert abs(elbow(t, curve) - bend) <= 20


@checks
@given(st.integers(0, 1000), st.integers(30, 970))
def the_boundary_never_lies_below_the_detail_mark(detail: int, half: int) -> None:
    t = np.arange(5.0, 1000, 10)
    visible = (np.arange(1000) < detail).astype(float)
    found = recommend(visible, t, np.clip(0.5 + (t - half) / 200, 0, 1))
    assert 0 < found.boundary < 1000
    assert found.boundary >= min(detail, 990)
    assert found.bound_by == ("detail" if found.detail_mark > found.layout_mark else "layout")
    if 110 <= half <= 790:
        assert abs(found.layout_mark - half) <= 1


@checks
def a_probe_that_knows_everything_by_heart_is_refused() -> None:
    with pytest.raises(UserError, match="knows the layout from the caption alone"):
        layout_mark(np.arange(10.0), np.full(10, 0.01))


@pytest.fixture(scope="module")
def halves(bench, structures, textures):
    return [structures[0], textures[0]]


def test_two_halves_are_a_probe_and_the_picture_is_written(bench, halves, tmp_path) -> None:
    card = load_card("openmoji").model_copy(update={"name": bench.dataset})
    outcome = find_boundary(card, halves, bench.recipe, bench.home, tmp_path, count=6)
    assert (outcome.split, outcome.images, outcome.upscale_factor) == ("held_out", 6, 2.0)
    assert [point.timestep for point in outcome.curve] == sorted(point.timestep for point in outcome.curve)
    below, above = outcome.curve[19], outcome.curve[20]
    assert below.timestep < 500 < above.timestep
    assert outcome.hand_over == pytest.approx(below.unknown_layout / above.unknown_layout)
    assert BoundaryOutcome.model_validate_json((tmp_path / "boundary.json").read_text()) == outcome
    with Image.open(outcome.picture) as picture:
        assert picture.width > 900


def test_a_generator_of_the_full_range_is_a_probe(bench, tmp_path) -> None:
    whole = bench.generator("whole", "structure", 9, TimeInterval(0, 1000))
    card = load_card("openmoji").model_copy(update={"name": bench.dataset})
    outcome = find_boundary(card, [whole], bench.recipe, bench.home, tmp_path, count=4)
    assert outcome.hand_over is None
    assert outcome.curve[0].timestep < 25
    assert outcome.curve[-1].timestep > 975
    # Untrained: it knows next to nothing of pure noise.
    assert outcome.curve[-1].unknown_layout > 0.8


def test_bad_probes_get_one_sentence(bench, halves, tmp_path) -> None:
    card = load_card("openmoji").model_copy(update={"name": bench.dataset})
    arguments = (bench.recipe, bench.home, tmp_path)
    with pytest.raises(UserError, match=r"No generator of the probe covers \[0, 500\); add one that does"):
        find_boundary(card, halves[:1], *arguments)
    with pytest.raises(UserError, match=r"No generator of the probe covers \[500, 1000\)"):
        find_boundary(card, halves[1:], *arguments)
    with pytest.raises(UserError, match="needs a probe"):
        find_boundary(card, [], *arguments)


test_boundary = checks.test()
