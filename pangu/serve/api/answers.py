"""What the API answers: OpenAI's objects with the facts that PanGu adds. Knows no HTTP framework."""

import base64
import time
from typing import Any, Literal

from pydantic import BaseModel, Field

from pangu.serve.api.requests import ImageRequest, OutputFormat
from pangu.serve.drawing.messages import Job, Partial, Pictures
from pangu.serve.errors import ErrorDetail, withheld

Kind = Literal["image_generation", "image_edit"]
"""The first half of OpenAI's event names."""


class ReleaseName(BaseModel):
    """Which registered versions drew an image."""

    pair_version: int
    structure_version: int
    texture_version: int


class ImageData(BaseModel):
    """One image of the answer, or why it is not shown; `seed` alone draws it again."""

    b64_json: str | None = None
    url: str | None = None
    error: ErrorDetail | None = Field(None, description="In the place of an image that was drawn and is withheld")
    seed: int


class Facts(BaseModel):
    """What PanGu says about every answer, beside what OpenAI defines."""

    release: ReleaseName
    seed: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    structure_cached: bool = Field(description="The structure half was found in the cache")
    partners: list[str] = Field(description="Who drew along")
    seconds: dict[str, float] = Field(description="Wall-clock seconds per stage")


class ImageResponse(Facts):
    """OpenAI's answer and the facts."""

    created: int = Field(description="Unix time in seconds")
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: str
    size: str = Field(description="WIDTHxHEIGHT in pixels")


def facts_of(job: Job, pictures: Pictures) -> Facts:
    release = pictures.release
    return Facts(
        release=ReleaseName.model_validate(release.model_dump(include=set(ReleaseName.model_fields))),
        seed=job.seed,
        scheduler=pictures.scheduler,
        num_inference_steps=pictures.steps,
        guidance_scale=pictures.guidance_scale,
        structure_cached=pictures.cached,
        partners=list(pictures.partners),
        seconds={stage: round(value, 4) for stage, value in pictures.seconds.items()},
    )


def answer_of(asked: ImageRequest, job: Job, pictures: Pictures) -> ImageResponse:
    """OpenAI's answer to a drawn request."""
    data = []
    for index, file in enumerate(pictures.files):
        if file is None:
            data.append(ImageData(error=withheld().body.error, seed=job.seed_of(index)))
            continue
        text = base64.b64encode(file).decode()
        if asked.response_format == "url":
            data.append(ImageData(url=f"data:image/{asked.output_format};base64,{text}", seed=job.seed_of(index)))
        else:
            data.append(ImageData(b64_json=text, seed=job.seed_of(index)))
    return ImageResponse(
        created=int(time.time()),
        data=data,
        output_format=asked.output_format,
        quality=asked.quality,
        size=size_of(pictures),
        **facts_of(job, pictures).model_dump(),
    )


def size_of(pictures: Pictures) -> str:
    width, height = pictures.width_height
    return f"{width}x{height}"


def events_of(kind: Kind, asked: ImageRequest, job: Job, message: Partial | Pictures) -> list[dict[str, Any]]:
    """One event for each image of a partial or final message; `image_index` tells images of one request apart.

    A withheld partial image has none. A withheld result has an error, after the images that are shown, because
    OpenAI's client reads no further than an error.
    """
    common = {
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": asked.output_format,
        "quality": asked.quality,
    }
    if isinstance(message, Partial):
        own: dict[str, Any] = {
            "type": f"{kind}.partial_image",
            "partial_image_index": message.index,
            "size": asked.size,
        }
    else:
        own = {"type": f"{kind}.completed", "size": size_of(message), **facts_of(job, message).model_dump()}
    images = [
        own | common | {"b64_json": base64.b64encode(file).decode(), "image_index": index, "seed": job.seed_of(index)}
        for index, file in enumerate(message.files)
        if file is not None
    ]
    hidden = [index for index, file in enumerate(message.files) if file is None and isinstance(message, Pictures)]
    errors = [{"type": "error", "image_index": index, "seed": job.seed_of(index)} for index in hidden]
    return images + [error | withheld().body.model_dump() for error in errors]
