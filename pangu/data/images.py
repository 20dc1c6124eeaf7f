"""Encoded image bytes to pixels and back, under a pixel limit. Every error of an image costs that image only.

Every image that enters is read here, whoever asks (ingest, prepare, encode, training on the fly, edits, control images): the
first frame or page, turned as its EXIF says, converted from its colour profile to sRGB, transparency on white, 16 bits scaled
to 8.
"""

import io
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from pangu.data.colour import to_srgb
from pangu.errors import UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SUFFIXES_OF: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "AVIF": (".avif", ".avifs"),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
}
"""Formats that Pillow decodes by itself and knows by their first bytes, and endings of their files.

Not HEIC, whose codecs have terms of their own."""
FORMATS = tuple(SUFFIXES_OF)
SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
"""Endings of image files, in lower case."""
PLAIN_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP")
"""What any other reader opens too; MPO is a JPEG with a second picture behind the first."""
MAX_PIXELS = 80_000_000
ORIENTATION = 0x0112
TILE_WIDTH, TILE_LENGTH = 322, 323
IS_BARE = "texts were left out"
ImageHWC = npt.NDArray[np.uint8]
"""Height x width x 3 (RGB), 0 to 255."""


class BadImage(Exception):
    """An image that cannot be used; `reason` is one word to count under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """Pixels, and whether other readers would see the same pixels in the bytes they came from."""

    image_hwc: ImageHWC
    is_plain: bool


def check_header(data: bytes, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS) -> tuple[int, int]:
    """(width, height) in px as they are stored; reads no more than the header.

    Raises:
        BadImage: empty, not_an_image (also: of none of `formats`) or too_many_pixels.
    """
    with _open(data, max_pixels, formats) as image:
        return image.size


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The pixels of `read_rgb`.

    Raises:
        BadImage: as of `read_rgb`.
    """
    image, is_plain = _read(data, max_pixels, None, FORMATS)
    return Decoded(np.asarray(image), is_plain)


def read_rgb(
    data: bytes, max_pixels: int = MAX_PIXELS, at_least: int | None = None, formats: Collection[str] = FORMATS
) -> Image.Image:
    """The first frame as RGB in sRGB, turned as its EXIF says, transparency on white.

    at_least: a JPEG may be decoded at an eighth, a quarter or half of its size as long as both sides keep so many px.

    Raises:
        BadImage: empty, not_an_image, too_many_pixels, unknown_range (32 bits or floats, whose white nobody says) or undecodable
            (truncated files among them).
    """
    return _read(data, max_pixels, at_least, formats)[0]


def read_opacity(data: bytes, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS) -> Image.Image:
    """From 0 (transparent) to 255 (opaque) for each pixel, in mode L, turned as its EXIF says.

    Raises:
        BadImage: as of `read_rgb`.
    """
    with _open(data, max_pixels, formats) as image:
        try:
            image.load()
            turned = ImageOps.exif_transpose(image)
            return _alpha(turned) or Image.new("L", turned.size, 255)
        except Exception as error:  # as in `_read`
            raise BadImage("undecodable") from error


def read_comments(data: bytes, formats: Collection[str] = FORMATS) -> tuple[dict[str, str], bytes]:
    """(text chunks of a PNG, the user comment in the EXIF of any other image); empty where there is none.

    Raises:
        BadImage: as of `check_header`.
    """
    with _open(data, MAX_PIXELS, formats) as image:
        texts = {name: str(text) for name, text in getattr(image, "text", {}).items()}
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    return texts, comment if isinstance(comment, bytes) else b""


def opened_rgb(images: Any) -> Any:
    """PIL images that a caller has opened, one or a list, as `read_rgb` would give them; arrays and tensors as they are.

    Raises:
        UserError: an image of 32 bits or floats.
    """
    if isinstance(images, (list, tuple)):
        return [opened_rgb(image) for image in images]
    if not isinstance(images, Image.Image):
        return images
    images.load()
    try:
        return _converted(images.copy(), images.format, images.info.get("icc_profile"))[0]
    except BadImage as error:
        raise UserError(
            f"An image of mode '{images.mode}' says nowhere how bright its white is; scale it to 8 bits."
        ) from error


def _read(data: bytes, max_pixels: int, at_least: int | None, formats: Collection[str]) -> tuple[Image.Image, bool]:
    """The image, and whether other readers would see the same."""
    with _open(data, max_pixels, formats) as image:
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            is_plain = image.format in PLAIN_FORMATS and image.mode in ("RGB", "L") and IS_BARE not in image.info
            rgb, is_changed = _converted(image, image.format, _profile(image, data))
        except BadImage:
            raise
        except Exception as error:  # Pillow's plugins raise nearly everything on broken files
            raise BadImage("undecodable") from error
    return rgb, is_plain and not is_changed


def _converted(image: Image.Image, kind: str | None, profile: bytes | None) -> tuple[Image.Image, bool]:
    """A loaded image, which may be overwritten, as RGB; and whether it was turned, changed in colour, or laid on white.

    kind: the format it came in.
    """
    is_turned = _orientation(image) != 1
    if is_turned:
        ImageOps.exif_transpose(image, in_place=True)
    alpha = _alpha(image)
    rgb, is_converted = to_srgb(_eight_bits(image, kind), profile)
    is_changed = is_turned or is_converted or alpha is not None
    return (rgb if alpha is None else _on_white(rgb, alpha)), is_changed


def encode_png(image_hwc: ImageHWC) -> bytes:
    """Lossless bytes of an RGB image.

    Not Pillow's encoder, which tries every filter on every row: that costs more than all else that prepare does to an enlarged
    image. Here each row is its difference to the one above it (filter 2 of the PNG specification), and zlib codes runs and
    letters only. A fifth to a half of the time; photographs become a tenth smaller, drawings a twelfth larger.
    """
    height, width, _ = image_hwc.shape
    rows = image_hwc.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", packer.compress(filtered.data) + packer.flush()), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(png_chunk(kind, data) for kind, data in parts)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _open(data: bytes, max_pixels: int, formats: Collection[str]) -> Image.Image:
    if not data:
        raise BadImage("empty")
    try:
        image = _opened(data, formats)
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels") from error
    except Exception as error:
        raise BadImage("not_an_image") from error
    if max(image.width * image.height, _tile_pixels(image)) > max_pixels:
        image.close()
        raise BadImage("too_many_pixels")
    return image


def _opened(data: bytes, formats: Collection[str]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=tuple(formats))
    except ValueError:
        # Pillow refuses a PNG for a profile or text of more than 1 MB, and the picture is worth more than what is said of it.
        if not data.startswith(PNG_SIGNATURE):
            raise
        image = Image.open(io.BytesIO(_bare_png(data)), formats=tuple(formats))
        image.info[IS_BARE] = True  # others would refuse it as Pillow did
        return image


def _bare_png(data: bytes) -> bytes:
    """A PNG without its chunks of packed profiles and texts."""
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in (b"iCCP", b"zTXt", b"iTXt", b"tEXt"):
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a tile of a TIFF, which is unpacked as a whole and may be larger than the image; 0 where there is none."""
    tags = getattr(image, "tag_v2", {})
    sides = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
    return int(sides[0]) * int(sides[1]) if all(isinstance(side, int) for side in sides) else 0


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them; 1 = upright, also where EXIF is broken."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # like a broken profile: the picture is there, what is said about it is not
        return 1
    return found if found in range(2, 9) else 1


def _profile(image: Image.Image, data: bytes) -> bytes | None:
    """The ICC profile of an image; Pillow does not tell that of JPEG 2000, where it stands in the box `colr` as method 2."""
    if image.format != "JPEG2000":
        return image.info.get("icc_profile")
    box = data.find(b"colr\x02")
    if box < 4:
        return None
    (length,) = struct.unpack(">I", data[box - 4 : box])
    return data[box + 7 : box - 4 + length]


def _alpha(image: Image.Image) -> Image.Image | None:
    """0 = transparent to 255 = opaque, or None where everything is opaque."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return None
    return (image if "A" in image.getbands() else image.convert("RGBA")).getchannel("A")


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """The colours of any image as L, RGB, CMYK or LAB, without transparency."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("unknown_range")
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode in ("L", "CMYK", "LAB"):
        return image
    return (image.convert("RGBA") if image.mode in ("P", "PA", "La", "RGBa") else image).convert("RGB")


def _on_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    rgb.putalpha(alpha)
    white = Image.new("RGBA", rgb.size, "white")
    white.alpha_composite(rgb)
    return white.convert("RGB")
