"""A png says how it was drawn, in any language, and holds the pixels that were drawn."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.serve.inference.image_encoding import encode, facts_in, read_image
from pangu.serve.inference.messages import RequestError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@given(st.integers(1, 9), st.integers(1, 9), TEXT, TEXT)
def test_pixels_and_facts_come_back(height: int, width: int, prompt: str, negative: str) -> None:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    facts = {"prompt": prompt, "negative_prompt": negative, "seed": "7"}
    file = encode(Image.fromarray(pixels), "png", 90, facts)
    with Image.open(io.BytesIO(file)) as again:
        assert again.format == "PNG"
        assert again.text == facts  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(again), pixels)
    assert encode(Image.fromarray(pixels), "png", 90, facts) == file
    for other in ("png", "jpeg", "webp"):
        assert facts_in(encode(Image.fromarray(pixels), other, 90, facts)) == facts


def test_facts_that_are_longer_than_a_jpeg_holds_leave_a_whole_picture() -> None:
    image = Image.new("RGB", (8, 8), "red")
    file = encode(image, "jpeg", 90, {"prompt": "狐" * 40_000})
    assert facts_in(file) == {}
    assert Image.open(io.BytesIO(file)).size == (8, 8)


def test_what_a_client_sends_is_read_or_refused_in_one_sentence() -> None:
    def file(side: int, kind: str) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (side, 8), "red").save(buffer, kind)
        return buffer.getvalue()

    assert read_image(file(2048, "JPEG"), "image").size == (2048, 8)
    for data, sentence in (
        (file(2049, "PNG"), "'image': it is 2049x8, and no side may be longer than 2048"),
        (file(8, "AVIF"), "'image': it is no PNG, JPEG, WEBP image"),
        (b"", "it is no PNG, JPEG, WEBP image"),
        (file(64, "PNG")[:60], "the image is damaged"),
    ):
        with pytest.raises(RequestError, match=sentence):
            read_image(data, "image")
