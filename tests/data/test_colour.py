"""Pictures with colour profiles come in as the sRGB pictures that they show."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from pangu.data.images import decode_rgb
from tests import icc, subtests

ROWS, COLUMNS = np.mgrid[0:96, 0:128]
PICTURE = np.stack([COLUMNS * 2, 255 - COLUMNS - ROWS, ROWS * 2.6], -1).clip(0, 255).astype(np.uint8)
SPACES = {
    "Display P3": (icc.DISPLAY_P3, None),
    "Adobe RGB": (icc.ADOBE_RGB, icc.ADOBE_GAMMA),
    "sRGB": (icc.SRGB, None),
}


def file_of(image: Image.Image, kind: str, profile: bytes | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile, **options)
    return buffer.getvalue()


def mean_error(data: bytes, expected_hwc: np.ndarray) -> float:
    return float(np.abs(decode_rgb(data).image_hwc.astype(float) - expected_hwc).mean())


@subtests.parametrize("space", SPACES)
def test_a_picture_in_any_rgb_space_is_its_picture_in_srgb(space: str) -> None:
    stored, profile = icc.in_space(PICTURE, *SPACES[space]), icc.rgb_profile(*SPACES[space])
    if space != "sRGB":
        assert mean_error(file_of(Image.fromarray(stored), "PNG"), PICTURE) > 10, (
            "without its profile it is another one"
        )
    for kind, bound in {"PNG": 0.5, "TIFF": 0.5, "JPEG": 2, "WEBP": 2, "AVIF": 2}.items():
        quality = {"quality": 95} if bound == 2 else {}
        data = file_of(Image.fromarray(stored), kind, profile, **quality)
        assert mean_error(data, PICTURE) < bound, kind
        # The bytes are kept only where readers without colour management see the same in them.
        assert decode_rgb(data).is_plain == (space == "sRGB" and kind not in ("TIFF", "AVIF")), kind


def test_jpeg_2000_has_its_profile_in_a_box() -> None:
    stored, profile = icc.in_space(PICTURE, icc.DISPLAY_P3, None), icc.rgb_profile(icc.DISPLAY_P3, None)
    data = file_of(Image.fromarray(stored), "JPEG2000")
    old = data.index(b"colr") - 4
    (length,) = struct.unpack(">I", data[old : old + 4])
    box = struct.pack(">I", 11 + len(profile)) + b"colr\x02\0\0" + profile
    header = data.index(b"jp2h") - 4
    (whole,) = struct.unpack(">I", data[header : header + 4])
    larger = struct.pack(">I", whole - length + len(box))
    tagged = data[:header] + larger + data[header + 4 : old] + box + data[old + length :]
    assert mean_error(data, PICTURE) > 10 and mean_error(tagged, PICTURE) < 0.5


@subtests.parametrize("gamma", [1.0, 1.8])
def test_gray_is_as_bright_as_its_profile_says(gamma: float) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    expected = (icc.encoded((ramp / 255) ** gamma, None) * 255)[..., None]
    profile = icc.gray_profile(gamma)
    assert mean_error(file_of(Image.fromarray(ramp), "PNG"), expected) > 5
    for image in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.uint16) * 257)):
        assert mean_error(file_of(image, "PNG", profile), expected) < 0.5
    with_alpha = Image.merge("LA", (Image.fromarray(ramp), Image.new("L", (256, 4), 255)))
    assert mean_error(file_of(with_alpha, "PNG", profile), expected) < 0.5
    # Gray tagged with an RGB space, as cameras do it: gray, at the brightness of that space.
    tagged = file_of(Image.fromarray(ramp), "PNG", icc.rgb_profile(icc.ADOBE_RGB, gamma))
    assert mean_error(tagged, expected) < 1


def test_inks_look_as_their_profile_says_and_else_as_plain_inversion() -> None:
    rng = np.random.default_rng(0)
    shape = 2, 2, 2, 2
    corners = np.stack([rng.uniform(30, 80, shape), rng.uniform(-15, 15, shape), rng.uniform(-15, 15, shape)], -1)
    corners[0, 0, 0, 0], corners[1, 1, 1, 1] = (100, 0, 0), (0, 0, 0)
    inks = np.stack(np.meshgrid(*[(0, 255)] * 4, indexing="ij"), -1).reshape(1, 16, 4).astype(np.uint8)
    image = Image.fromarray(inks.repeat(8, 0).repeat(8, 1), "CMYK")
    expected = icc.srgb_of_lab(corners.reshape(1, 16, 3)).repeat(8, 0).repeat(8, 1)
    plain = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        assert mean_error(file_of(image, kind, icc.cmyk_profile(corners), **options), expected) < 1
        assert mean_error(file_of(image, kind, **options), plain.repeat(8, 0).repeat(8, 1)) < 1


def test_lab_is_srgb_again() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    stored = ImageCms.applyTransform(Image.fromarray(PICTURE), to_lab)
    assert stored is not None and stored.mode == "LAB"
    assert mean_error(file_of(stored, "TIFF"), PICTURE) < 2


def test_a_profile_that_is_broken_or_of_other_pixels_says_nothing() -> None:
    good = icc.rgb_profile(icc.DISPLAY_P3, None)
    for profile in (good[:200], b"no profile" * 50, icc.gray_profile(1.0), good + bytes(5 << 20)):
        for kind in ("PNG", "TIFF"):
            data = file_of(Image.fromarray(PICTURE), kind, profile)
            assert np.array_equal(decode_rgb(data).image_hwc, PICTURE)


def test_what_is_transparent_is_white_after_the_colours_are_converted() -> None:
    stored = Image.fromarray(icc.in_space(PICTURE, icc.DISPLAY_P3, None))
    alpha = np.zeros((96, 128), np.uint8)
    alpha[:48], alpha[:, 64:] = 255, 128
    stored.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    expected = PICTURE * share + 255 * (1 - share)
    assert mean_error(file_of(stored, "PNG", icc.rgb_profile(icc.DISPLAY_P3, None)), expected) < 1
