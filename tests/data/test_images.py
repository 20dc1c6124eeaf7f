"""Whatever the bytes, decoding gives RGB pixels or a reason, and nothing huge is ever decoded."""

import io
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.data.example.origin import png_header
from pangu.data.images import BadImage, check_header, decode_rgb, encode_png

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {kind: encoded(Image.fromarray(PIXELS), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from((1, 8, 255)))
def test_png_gives_the_same_pixels_back_by_any_decoder(height: int, width: int, seed: int, step: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, 2 * width, 3)) // step * step
    pixels = values.astype(np.uint8)[:, ::2]
    decoded, others = decode_rgb(encode_png(pixels)), cv2.imdecode(np.frombuffer(encode_png(pixels), np.uint8), 1)
    assert np.array_equal(decoded.image_hwc, pixels) and decoded.is_plain
    assert np.array_equal(others[:, :, ::-1], pixels)


@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_files_are_decoded_or_refused(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(0, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        assert decode_rgb(cut, 10_000).image_hwc.shape[2] == 3
    except BadImage as error:
        assert error.reason in ("empty", "not_an_image", "too_many_pixels", "undecodable")


def test_reasons() -> None:
    def reason(data: bytes) -> str:
        with pytest.raises(BadImage) as error:
            check_header(data, 10_000)
        return error.value.reason

    assert reason(b"") == "empty"
    assert reason(b"<!doctype html>") == "not_an_image"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "not_an_image"
    assert reason(png_header(101, 100)) == "too_many_pixels"
    started = time.monotonic()
    assert reason(png_header(100_000, 100_000)) == "too_many_pixels"
    assert time.monotonic() - started < 1


def test_a_truncated_file_passes_its_header_and_fails_to_decode() -> None:
    half = FILES["PNG"][: len(FILES["PNG"]) // 2]
    check_header(half, 10_000)
    with pytest.raises(BadImage, match="undecodable"):
        decode_rgb(half)


def test_transparency_falls_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = clear.convert("P")
    palette.info["transparency"] = 0
    for data in (encoded(clear, "PNG"), encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))):
        decoded = decode_rgb(data)
        assert (decoded.image_hwc == 255).all() and not decoded.is_plain


def test_exif_turns_the_image_and_sixteen_bits_are_scaled() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_rgb(encoded(Image.fromarray(PIXELS), "JPEG", exif=exif))
    assert decoded.image_hwc.shape == (30, 20, 3) and not decoded.is_plain
    deep = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert (decode_rgb(encoded(deep, "PNG")).image_hwc == 0x80).all()
    assert decode_rgb(encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")).image_hwc.shape == (20, 30, 3)
