"""Pixels -> image files and back. The same pixels and facts always give the same bytes, so no time of day goes in."""

import io
from collections.abc import Mapping
from typing import Any

from pangu.serve.drawing.messages import Job, Release, RequestError

MAX_SIDE = 2048
"""Of an image that a client sends, px; checked before it is decoded."""
FORMATS = ("PNG", "JPEG", "WEBP")


def encode(image: Any, output_format: str, compression: int, facts: Mapping[str, str]) -> bytes:
    """A PIL image as a png, jpeg or webp file; a png carries `facts` as text chunks, readable by any viewer."""
    from PIL.PngImagePlugin import PngInfo

    file = io.BytesIO()
    if output_format == "png":
        chunks = PngInfo()
        for name, value in facts.items():
            # tEXt where Latin-1 is enough, iTXt (UTF-8) for prompts in Chinese.
            if value.isascii():
                chunks.add_text(name, value)
            else:
                chunks.add_itxt(name, value)
        image.save(file, "PNG", pnginfo=chunks)
    elif output_format == "jpeg":
        image.convert("RGB").save(file, "JPEG", quality=max(compression, 1))
    else:
        image.save(file, "WEBP", quality=compression, method=4)
    return file.getvalue()


def facts_of(release: Release, job: Job, scheduler: str, steps: int, guidance_scale: float) -> dict[str, str]:
    """What a png says of itself, beside its seed."""
    facts = {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt or "",
        "scheduler": scheduler,
        "num_inference_steps": str(steps),
        "guidance_scale": str(guidance_scale),
        "pair_version": str(release.pair_version),
        "structure_version": str(release.structure_version),
        "texture_version": str(release.texture_version),
        "pair_sha256": release.sha256,
        "Software": "PanGu",
    }
    if job.styles:
        facts["style"] = ", ".join(f"{name} {scale:g}" for name, scale in sorted(job.styles.items()))
    if job.coop is not None:
        helpers = zip(job.coop.partners, job.coop.strengths, strict=True)
        facts["coop"] = ", ".join(f"{name} {strength:g}" for name, strength in helpers)
    return facts


def read_image(file: bytes, param: str, formats: tuple[str, ...] = FORMATS) -> Any:
    """A client's image file as an RGB PIL image.

    Raises:
        RequestError: it is none of `formats`, damaged, or too large; the pixels of a large one are never unpacked.
    """
    from PIL import Image

    known = ", ".join(formats)
    try:
        image = Image.open(io.BytesIO(file), formats=formats)
    except Exception as error:
        raise RequestError(f"Invalid value for '{param}': it is no {known} image.", param) from error
    if max(image.size) > MAX_SIDE:
        raise RequestError(
            f"Invalid value for '{param}': it is {image.width}x{image.height}, and no side may be longer than {MAX_SIDE}.",
            param,
        )
    try:
        return image.convert("RGB")
    except Exception as error:
        raise RequestError(f"Invalid value for '{param}': the {image.format} image is damaged.", param) from error
