"""Whatever the bytes, decoding gives RGB pixels or a reason, and nothing huge is ever decoded."""

import io
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pangu.cli.coop import _picture
from pangu.data.encode.pixels import fit_pixels
from pangu.data.example.origin import png_header
from pangu.data.images import FORMATS, SUFFIXES_OF, BadImage, check_header, decode_rgb, encode_png, opened_rgb
from pangu.errors import UserError
from pangu.serve.inference.image_encoding import read_image
from tests import icc, subtests

checks = subtests.Checks()


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {kind: encoded(Image.fromarray(PIXELS), kind) for kind in FORMATS}


def tiled_tiff(side: int, tile_side: int) -> bytes:
    """A gray TIFF of one deflated tile, which may be larger than the picture."""
    packed = zlib.compress(bytes(tile_side**2), 9)
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, tile_side), (323, 4, tile_side), (324, 4, 8), (325, 4, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def several(kind: str) -> bytes:
    """A red frame or page, then a blue one."""
    first, second = (Image.new("RGB", (30, 20), colour) for colour in ("red", "blue"))
    return encoded(first, kind, save_all=True, append_images=[second])


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
        assert error.reason in ("empty", "not_an_image", "too_many_pixels", "undecodable", "unknown_range")


@checks
def reasons() -> None:
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
    assert reason(tiled_tiff(64, 101)) == "too_many_pixels" and check_header(tiled_tiff(64, 96), 10_000) == (64, 64)
    for kind, data in FILES.items():
        with pytest.raises(BadImage, match="too_many_pixels"):
            check_header(data, 30 * 20 - 1)
        assert check_header(data, 30 * 20) == (30, 20), kind
    assert time.monotonic() - started < 1


@checks
def a_truncated_file_passes_its_header_and_fails_to_decode() -> None:
    half = FILES["PNG"][: len(FILES["PNG"]) // 2]
    check_header(half, 10_000)
    with pytest.raises(BadImage, match="undecodable"):
        decode_rgb(half)


@checks
def transparency_falls_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = clear.convert("P")
    palette.info["transparency"] = 0
    for data in (encoded(clear, "PNG"), encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))):
        decoded = decode_rgb(data)
        assert (decoded.image_hwc == 255).all() and not decoded.is_plain


@checks
def endings_of_formats_are_those_that_pillow_knows() -> None:
    Image.init()
    known = Image.registered_extensions()
    for kind, suffixes in SUFFIXES_OF.items():
        of_kind = {suffix for suffix, other in known.items() if other in ((kind, "MPO") if kind == "JPEG" else (kind,))}
        assert set(suffixes) == of_kind, kind


@checks
def of_animations_and_pages_the_first_is_read() -> None:
    for kind in ("PNG", "GIF", "WEBP", "AVIF", "TIFF", "MPO"):
        first = decode_rgb(several(kind)).image_hwc
        assert first.shape == (20, 30, 3) and np.abs(first.astype(int) - (255, 0, 0)).mean() < 8, kind


@checks
def every_format_and_orientation_shows_the_same_picture() -> None:
    corner = np.zeros((40, 60, 3), np.uint8)
    corner[:20, :30], corner[20:, 30:] = (250, 20, 20), (20, 20, 250)
    upright = {
        1: corner, 2: corner[:, ::-1], 3: corner[::-1, ::-1], 4: corner[::-1],
        5: corner.swapaxes(0, 1), 6: corner.swapaxes(0, 1)[:, ::-1],
        7: corner.swapaxes(0, 1)[::-1, ::-1], 8: corner.swapaxes(0, 1)[::-1],
    }  # fmt: skip
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        for orientation, expected in upright.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            decoded = decode_rgb(encoded(Image.fromarray(corner), kind, exif=exif, quality=95))
            assert decoded.image_hwc.shape == expected.shape, (kind, orientation)
            assert np.abs(decoded.image_hwc.astype(int) - expected).mean() < 6, (kind, orientation)
            assert decoded.is_plain == (orientation == 1 and kind not in ("TIFF", "AVIF"))
    broken = encoded(Image.fromarray(corner), "PNG", exif=b"Exif\0\0nothing that EXIF could be")
    assert np.array_equal(decode_rgb(broken).image_hwc, corner)


@checks
def sixteen_bits_are_scaled_and_values_without_a_white_are_refused() -> None:
    for deep in (np.full((40, 40), 0x8000, np.uint16), np.full((40, 40), 0x8000, np.int32)):
        for kind in ("PNG", "TIFF", "JPEG2000") if deep.dtype == np.uint16 else ("PPM",):
            assert (decode_rgb(encoded(Image.fromarray(deep), kind)).image_hwc == 0x80).all(), kind
    for lost in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)):
        with pytest.raises(BadImage, match="unknown_range"):
            decode_rgb(encoded(Image.fromarray(lost), "TIFF"))
        with pytest.raises(UserError, match="says nowhere how bright its white is"):
            opened_rgb([Image.fromarray(lost)])


@checks
def a_png_whose_texts_are_too_long_for_pillow_is_still_read() -> None:
    texts = PngInfo()
    texts.add_text("workflow", "{}" * 1_000_000, zip=True)
    decoded = decode_rgb(encoded(Image.fromarray(PIXELS), "PNG", pnginfo=texts))
    assert np.array_equal(decoded.image_hwc, PIXELS) and not decoded.is_plain


@checks
def whoever_reads_a_file_sees_the_same_picture(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    colours = Image.fromarray(PIXELS)
    see_through = colours.copy()
    see_through.putalpha(Image.fromarray(PIXELS[..., 0]))
    files = {
        "EXIF": encoded(colours, "JPEG", exif=turned),
        "alpha": encoded(see_through, "PNG"),
        "one colour is clear": encoded(colours, "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
        "palette": encoded(see_through.quantize(9), "PNG"),
        "16 bits": encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
        "profile": encoded(colours, "WEBP", icc_profile=icc.rgb_profile(icc.ADOBE_RGB, 2.2), lossless=True),
        "gray profile": encoded(colours.convert("L"), "PNG", icc_profile=icc.gray_profile(1.5)),
        "CMYK": encoded(colours.convert("CMYK"), "JPEG"),
    }
    for name, data in files.items():
        seen = decode_rgb(data).image_hwc
        height, width, _ = seen.shape
        (tmp_path / "file").write_bytes(data)
        for other in (
            fit_pixels(data, height, width),
            read_image(data, "image"),
            opened_rgb(Image.open(io.BytesIO(data))),
            _picture(tmp_path / "file"),
        ):
            assert np.array_equal(np.asarray(other), seen), name
        assert not decode_rgb(data).is_plain, name


test_images = checks.test()
