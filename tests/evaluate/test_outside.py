"""`outside`: nothing for the original itself, something for colour far from it, and nothing for colour on it or beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pangu.data.example.openmoji import render_png, selection
from pangu.data.images import read_rgb
from pangu.evaluate.outside import MARGIN, ground, outside
from pangu.evaluate.protocol import METRICS, lower_is_better
from tests import subtests

checks = subtests.Checks()

BOX = (30, 30, 66, 66)
"""What the original has: pixels 30 ... 66 of 96."""
COLOURS = st.tuples(*[st.integers(0, 200)] * 3)


def square(side: int = 96) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).rectangle([place * side // 96 for place in BOX], "red")
    return image


def painted(at: tuple[int, int], colour: tuple[int, ...]) -> Image.Image:
    image = square()
    image.putpixel(at, colour)
    return image


@subtests.parametrize("one", selection(12), ids=lambda one: one.caption_en)
def test_a_drawing_is_not_outside_itself(one) -> None:
    image = read_rgb(render_png(one, 96))
    assert outside(image, image) == pytest.approx(0, abs=0.001)


@checks
@given(x=st.integers(0, 95), y=st.integers(0, 95), colour=COLOURS)
def a_smudge_counts_if_it_is_farther_away_than_the_margin(x, y, colour) -> None:
    left, top, right, bottom = BOX
    away = np.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))
    value = outside(painted((x, y), colour), square())
    assert (value > 0) == (away > MARGIN)
    if away > MARGIN:
        assert value == pytest.approx((255 - min(colour)) / 255 / ground(square()).sum())


@checks
@given(count=st.integers(1, 20), colour=COLOURS)
def more_colour_outside_is_more(count, colour) -> None:
    few, many = square(), square()
    ImageDraw.Draw(few).rectangle((0, 0, count - 1, 2), colour)
    ImageDraw.Draw(many).rectangle((0, 0, count, 2), colour)
    assert 0 < outside(few, square()) < outside(many, square()) <= 1


@checks
def the_margin_grows_with_the_image() -> None:
    shares = [ground(square(side)).mean() for side in (96, 192, 384)]
    assert shares == pytest.approx([shares[0]] * 3, abs=0.01)


@checks
def originals_without_a_white_ground_are_left_out() -> None:
    assert outside(square(), Image.new("RGB", (96, 96), "navy")) is None
    assert outside(square(), Image.new("RGB", (96, 96), "white")) > 0


@checks
def less_is_better() -> None:
    assert "outside" in METRICS and lower_is_better("outside_zh")


test_outside = checks.test()
