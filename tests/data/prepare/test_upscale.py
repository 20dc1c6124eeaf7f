"""Upscalers enlarge by their factor, SPAN beats Lanczos, and a network that loses its way is not believed."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pangu.data.example import openmoji
from pangu.data.images import ImageHWC, decode_rgb
from pangu.data.prepare import upscale
from pangu.data.prepare.upscale import Lanczos, Span, make_upscaler, resize, unfaithfulness, upscale_to
from tests import subtests

NAMES = ("spanx2", "spanx4", "lanczos")
UPSCALERS = {name: make_upscaler(name) for name in NAMES}


BLOCKS = ((0x2600, 0x26FF), (0x1F32D, 0x1F37F), (0x1F400, 0x1F43F), (0x1F466, 0x1F478), (0x1F4A0, 0x1F4FF),
          (0x1F600, 0x1F64F), (0x1F680, 0x1F6FF))  # fmt: skip
"""Symbols, food, animals, people, objects, faces, transport."""


def drawing(one: openmoji.Emoji, side: int) -> ImageHWC:
    return decode_rgb(openmoji.render_png(one, side)).image_hwc


def psnr_db(squared_errors: list[float]) -> float:
    return float(10 * np.log10(255**2 / np.mean(squared_errors)))


@subtests.parametrize("name", NAMES)
def test_a_step_enlarges_by_the_factor_and_keeps_flat_colour(name: str) -> None:
    upscaler = UPSCALERS[name]
    flat = np.full((12, 20, 3), (200, 120, 40), np.uint8)
    larger = upscaler.upscale(flat)
    assert larger.shape == (12 * upscaler.factor, 20 * upscaler.factor, 3) and larger.dtype == np.uint8
    assert abs(larger.astype(int) - (200, 120, 40)).mean() < 3


@settings(max_examples=10)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(41, 80), st.sampled_from(NAMES))
def test_the_smaller_side_hits_the_target_and_the_shape_is_kept(
    height: int, width: int, target: int, name: str
) -> None:
    image = resize(drawing(openmoji.selection(4)[2], 40), width, height)
    larger, _ = upscale_to(image, target, UPSCALERS[name])
    assert min(larger.shape[:2]) == target
    assert larger.shape[1] / larger.shape[0] == pytest.approx(width / height, rel=0.02)


def test_span_comes_closer_to_the_true_drawing_than_lanczos() -> None:
    errors: dict[str, list[float]] = {name: [] for name in NAMES}
    for one in openmoji.selection(16):
        small, true = drawing(one, 48), drawing(one, 96).astype(float)
        for name in NAMES:
            larger, used = upscale_to(small, 96, UPSCALERS[name])
            assert used == name
            errors[name].append(float(np.mean((larger - true) ** 2)))
    lanczos = psnr_db(errors["lanczos"])
    assert psnr_db(errors["spanx2"]) > lanczos + 1 and psnr_db(errors["spanx4"]) > lanczos + 1.5


def test_the_same_image_gives_the_same_pixels() -> None:
    small = drawing(openmoji.selection(3)[1], 48)
    assert np.array_equal(UPSCALERS["spanx2"].upscale(small), Span(2).upscale(small))


class Lost:
    """What a network that diverges looks like: noise."""

    name, factor = "lost", 2

    def upscale(self, image_hwc: ImageHWC) -> ImageHWC:
        height, width, _ = image_hwc.shape
        return np.random.default_rng(0).integers(0, 256, (2 * height, 2 * width, 3), np.uint8)


def test_an_unfaithful_result_is_replaced_by_lanczos() -> None:
    small = drawing(openmoji.selection(3)[1], 48)
    larger, used = upscale_to(small, 96, Lost())
    assert used == "lanczos" and np.array_equal(larger, Lanczos().upscale(small))
    assert unfaithfulness(Lost().upscale(small), small) > 50


def test_openmoji_selection_is_the_same_every_time_varied_and_without_doubles() -> None:
    chosen = openmoji.selection()
    assert chosen == openmoji.selection() and len(chosen) == 420
    assert len({one.caption_en for one in chosen}) == len({one.caption_zh for one in chosen}) == 420
    codes = [ord(one.text[0]) for one in chosen]
    for first, last in BLOCKS:
        assert sum(first <= code <= last for code in codes) >= 5
    assert not any("skin tone" in one.caption_en for one in chosen)
    assert len({openmoji.render_png(one, 48) for one in chosen}) == 420
    image = Image.open(io.BytesIO(openmoji.render_png(chosen[5], 48)))
    assert image.size == (48, 48) and image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)
    assert "OpenMoji" in openmoji.attribution() and openmoji.licence() == "CC BY-SA 4.0"


def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawing(openmoji.selection(3)[2], 96)[:, :80]
    span = make_upscaler("spanx2")
    whole = span.upscale(image).astype(int)
    monkeypatch.setattr(upscale, "TILE", 32)
    assert np.abs(span.upscale(image) - whole).max() <= 1
    monkeypatch.setattr(upscale, "SEEN", 0)
    assert np.abs(span.upscale(image) - whole).max() > 8  # without overlap there would be seams
