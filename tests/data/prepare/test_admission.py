"""What calibration looks at: crops say what whole images say, at a fraction of the pixels, and how far it is."""

import numpy as np
import pytest

from pangu.data.card import Admission, Card
from pangu.data.prepare import admission
from pangu.data.prepare.admission import CROP, cropped, round_trips, window_of
from pangu.data.prepare.upscale import make_upscaler
from pangu.progress import Progress


def photograph(seed: int, side: int) -> np.ndarray:
    """(side, side, 3) uint8 with the spectrum of photographs: power falls with the square of the frequency."""
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency[None]) + 1 / side
    noise = np.random.default_rng(seed).standard_normal((3, side, side))
    layers = np.fft.ifft2(np.fft.fft2(noise) / radius).real
    layers = (layers - layers.mean((1, 2), keepdims=True)) / layers.std((1, 2), keepdims=True)
    return np.clip(layers * 45 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def card_of(side: int) -> Card:
    return Card.model_validate(
        {
            "name": "photos", "source": "photos", "columns": {"caption_en": "txt"}, "licence": {"name": "none"},
            "texture_min_side": side,
            "upscale": {"target_side": side, "upscaler": "lanczos", "admission": Admission(autoencoder=None)},
        }
    )  # fmt: skip


def test_crops_are_hidden_by_the_noise_that_hides_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images, card = [photograph(seed, 400) for seed in range(8)], card_of(400)
    told = list[Progress]()
    found = round_trips(card, images, make_upscaler("lanczos"), told.append)
    monkeypatch.setattr(admission, "CROP", 10**6)
    whole = round_trips(card, images, make_upscaler("lanczos"))
    assert [(one.image, one.factor) for one in found] == [(one.image, one.factor) for one in whole]
    difference = np.array([one.level - other.level for one, other in zip(found, whole, strict=True)])
    # A tenth of a logarithm of noise over signal is 5 of 1000 timesteps of Stable Diffusion's schedule in the middle.
    assert abs(difference.mean()) < 0.05 and np.abs(difference).max() < 0.3
    assert [one.done for one in told] == list(range(1, len(found) + 1)) and {one.total for one in told} == {len(found)}


def test_a_crop_holds_its_window_and_never_leaves_the_image() -> None:
    numbers = np.arange(700 * 500 * 3).reshape(700, 500, 3)
    for number in range(40):
        for image in (numbers, numbers[:130, :96]):
            window = window_of(number, image.shape, 96)
            crop, place = cropped(image, window)
            assert (crop[place] == image[window]).all()
            assert crop.shape == (min(CROP, image.shape[0]), min(CROP, image.shape[1]), 3)
