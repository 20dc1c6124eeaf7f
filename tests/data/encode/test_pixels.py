"""Fitting encoded images to a size."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from pangu.data.encode.pixels import fit_pixels
from tests import subtests


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(sink, "JPEG", quality=92, exif=exif)
    return sink.getvalue()


def decoded_whole(data: bytes, height: int, width: int) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS))


@subtests.parametrize("orientation", [1, 6])
@subtests.parametrize(("height", "width"), [(64, 64), (96, 40), (40, 96), (300, 300)])
def test_a_large_jpeg_gives_the_picture_that_decoding_all_of_it_gives(
    height: int, width: int, orientation: int
) -> None:
    data = jpeg(picture(480, 900), orientation)
    error = fit_pixels(data, height, width).astype(float) - decoded_whole(data, height, width)
    assert 10 * np.log10(255**2 / max(float((error**2).mean()), 1e-9)) > 40


def test_a_large_jpeg_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    fit = ImageOps.fit

    def watching(image: Image.Image, *arguments: object) -> Image.Image:
        seen.append(image.size)
        return fit(image, *arguments)

    monkeypatch.setattr(ImageOps, "fit", watching)
    fit_pixels(jpeg(picture(1600, 1600)), 200)
    assert seen == [(400, 400)]
