"""Pixels -> image files and back. The same pixels and facts always give the same bytes, so no time of day goes in."""

import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pangu.errors import NotFinite
from pangu.serve.inference.facts import own_facts
from pangu.serve.inference.messages import Job, RequestError
from pangu.serve.inference.moderation import Moderator

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 2048
"""Of an image that a client sends, px; checked before it is decoded."""
HEADER_BYTES = 25
"""Of the chunk that opens every png: length, kind, 13 bytes, checksum."""
FORMATS = ("PNG", "JPEG", "WEBP")
MOST_EXIF_BYTES = 65_000
"""A jpeg has one segment of 64 KiB for them."""


def encode(image: Any, output_format: str, compression: int, facts: Mapping[str, str]) -> bytes:
    """A PIL image as a png, jpeg or webp file that carries `facts`: a png as text chunks, the others as JSON in their EXIF."""
    if output_format == "png":
        return png_with(image, facts)
    file, exif = io.BytesIO(), exif_with(facts)
    if output_format == "jpeg":
        image.convert("RGB").save(file, "JPEG", quality=max(compression, 1), exif=exif)
    else:
        image.save(file, "WEBP", quality=compression, method=4, exif=exif)
    return file.getvalue()


def exif_with(facts: Mapping[str, str]) -> bytes:
    """EXIF data whose user comment is the JSON of `facts`; none where it would be longer than a jpeg can hold."""
    from PIL import ExifTags, Image

    if not facts:
        return b""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = facts.get("Software", "PanGu")
    comment = b"UNICODE\0" + json.dumps(facts, ensure_ascii=False).encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    data = exif.tobytes()
    return data if len(data) <= MOST_EXIF_BYTES else b""


def facts_in(file: bytes) -> dict[str, str]:
    """What a png, jpeg or webp file that was drawn here says of itself; nothing of any other file."""
    from pangu.data.images import read_comments

    texts, comment = read_comments(file, FORMATS)
    return dict(json.loads(comment[8:].decode("utf-16-be"))) if comment.startswith(b"UNICODE\0") else texts


def png_with(image: Any, facts: Mapping[str, str]) -> bytes:
    """A png with text chunks; by the encoder of datasets, because Pillow's takes as long as steps of the network."""
    import numpy as np

    from pangu.data.images import PNG_SIGNATURE, encode_png, png_chunk

    file = encode_png(np.asarray(image.convert("RGB")))
    head = len(PNG_SIGNATURE) + HEADER_BYTES
    texts = []
    for name, value in facts.items():
        # tEXt where ASCII is enough, iTXt (UTF-8, neither packed nor translated) for prompts in Chinese.
        kind, between = (b"tEXt", b"\0") if value.isascii() else (b"iTXt", b"\0\0\0\0\0")
        texts.append(png_chunk(kind, name.encode() + between + value.encode()))
    return file[:head] + b"".join(texts) + file[head:]


def finite_images(pixels_bchw: "Tensor", processor: Any) -> list[Any]:
    """(B, 3, H, W) pixels in [0, 1] -> PIL images, by diffusers' image processor.

    Raises:
        NotFinite: a pixel is NaN or infinite, which the conversion would make black.
    """
    if not bool(pixels_bchw.isfinite().all()):
        raise NotFinite("The model gave values that are not finite, so there is no image.")
    return list(processor.numpy_to_pil(processor.pt_to_numpy(pixels_bchw)))


def files_of(
    images: Sequence[Any], job: Job, facts: Mapping[str, str], moderator: Moderator
) -> tuple[list[bytes | None], dict[str, float]]:
    """(an image file for each PIL image, None for those that are withheld; seconds of the stage "moderation", if any)."""
    clock = time.perf_counter()
    withheld = [moderator.withholds(image) for image in images]
    seconds = {"moderation": time.perf_counter() - clock} if moderator.looks else {}
    files = [
        None if hidden else encode(image, job.output_format, job.output_compression, own_facts(facts, job, index))
        for index, (image, hidden) in enumerate(zip(images, withheld, strict=True))
    ]
    return files, seconds


def read_image(file: bytes, param: str, formats: tuple[str, ...] = FORMATS) -> Any:
    """A client's image file as an RGB PIL image, read as training reads its images; transparency is no mask, it lies on white.

    Raises:
        RequestError: it is none of `formats`, damaged, or too large; the pixels of a large one are never unpacked.
    """
    from pangu.data.images import BadImage, check_header, read_rgb

    known = ", ".join(formats)
    try:
        width, height = check_header(file, formats=formats)
        if max(width, height) <= MAX_SIDE:
            return read_rgb(file, formats=formats)
        fault = f"it is {width}x{height}, and no side may be longer than {MAX_SIDE}"
    except BadImage as error:
        faults = {
            "too_many_pixels": f"it is too large; no side may be longer than {MAX_SIDE}",
            "undecodable": "the image is damaged",
        }
        fault = faults.get(error.reason, f"it is no {known} image")
    raise RequestError(f"Invalid value for '{param}': {fault}.", param)
