"""What the API answers: OpenAI's objects with the facts that PanGu adds."""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from pangu.serve.api.request_fields import OutputFormat
from pangu.serve.api.requests import ImageRequest
from pangu.serve.error_answers import ErrorDetail, withheld
from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage, Unknown, Unread

Kind = Literal["image_generation", "image_edit"]
"""The first half of OpenAI's event names."""
NAMED = 5
"""Words of a warning."""


class ReleaseName(BaseModel):
    """Which registered versions drew an image."""

    pair_version: int
    structure_version: int
    texture_version: int
    middle_versions: dict[str, int] = Field(
        {},
        exclude_if=lambda value: not value,
        description="Of the experts between the two, where there are any",
    )


class ImageData(BaseModel):
    """One image of the answer, or why it is not shown; `seed` alone draws it again."""

    b64_json: str | None = None
    url: str | None = None
    error: ErrorDetail | None = Field(None, description="In the place of an image that was drawn and is withheld")
    seed: int
    revised_prompt: str | None = Field(
        None, description="What the chat model made of the prompt, where `enhance` asked it"
    )


class UnreadText(BaseModel):
    """The end of a text that a text encoder did not read: it takes `max_tokens` tokens, and the text has `tokens`."""

    param: str = Field(description="The field of the request; 'style.NAME' is the prompt behind the prefix of a style")
    encoder: str
    text: str
    tokens: int
    max_tokens: int


class UnknownWords(BaseModel):
    """A text of which the text encoders do not know the greater part; the picture has little to do with it."""

    param: str = Field(description="The field of the request")
    words: list[str] = Field(description="Those that no encoder knows, each once")


class ReadTexts(BaseModel):
    """What of the texts of a request would have no effect."""

    unread: list[UnreadText]
    unknown: list[UnknownWords]


def read_texts(unread: Sequence[Unread], unknown: Sequence[Unknown]) -> ReadTexts:
    """The same as an answer."""
    return ReadTexts(
        unread=[UnreadText(**asdict(each)) for each in unread],
        unknown=[UnknownWords.model_validate(asdict(each)) for each in unknown],
    )


class Facts(BaseModel):
    """What PanGu says about every answer, beside what OpenAI defines."""

    release: ReleaseName
    seed: int
    scheduler: str
    num_inference_steps: int | dict[str, int] = Field(
        description="Of the request; its texture part may have its own, see `request`"
    )
    guidance_scale: float | dict[str, float] = Field(
        description="Of the request; its texture part may have its own, see `request`"
    )
    steps: dict[str, int] = Field(description="Steps that each half took")
    request: dict[str, Any] = Field(
        description="The body that draws the same images again; files have to be sent along"
    )
    unread: list[UnreadText] = Field([], description="Text that was cut off because the encoders read no further")
    unknown: list[UnknownWords] = Field([], description="Texts that are for the greater part of unknown words")
    warnings: list[str] = Field(
        [], description="Fields that were accepted and changed nothing, other sizes, and texts of unknown words"
    )
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


def facts_of(asked: ImageRequest, job: Job, pictures: GeneratedImages) -> Facts:
    release, request = pictures.release, dict(pictures.request)
    return Facts(
        release=ReleaseName.model_validate(release.model_dump(include=set(ReleaseName.model_fields))),
        seed=job.seed,
        scheduler=pictures.scheduler,
        num_inference_steps=request["num_inference_steps"],
        guidance_scale=request["guidance_scale"],
        steps=dict(pictures.role_steps),
        request=request,
        **dict(read_texts(pictures.unread, pictures.unknown)),
        warnings=asked.warnings + _other_size(asked, pictures) + _unknown_words(pictures) + list(pictures.notes),
        structure_cached=pictures.cached,
        partners=list(pictures.partners),
        seconds={stage: round(value, 4) for stage, value in pictures.seconds.items()},
    )


def _other_size(asked: ImageRequest, pictures: GeneratedImages) -> list[str]:
    drawn = size_of(pictures)
    if asked.size in ("auto", drawn):
        return []
    return [f"size {asked.size} is not drawn here; the nearest one is, {drawn}."]


def _unknown_words(pictures: GeneratedImages) -> list[str]:
    said = []
    for each in pictures.unknown:
        words = ", ".join(each.words[:NAMED]) + (", ..." if len(each.words) > NAMED else "")
        said.append(f"{each.param} is for the greater part of words that this model does not know ({words}).")
    return said


def headers_of(message: PartialImage | GeneratedImages) -> dict[str, str]:
    """What of the texts had no effect, by field: characters that were not read, and unknown words; none if there are none.

    `X-PanGu-Unread: prompt=21, texture.prompt=3` and `X-PanGu-Unknown: prompt=2`.
    """
    longest: dict[str, int] = {}
    for each in message.unread:
        longest[each.param] = max(longest.get(each.param, 0), len(each.text))
    unknown = {each.param: len(each.words) for each in message.unknown}
    headers = {"X-PanGu-Unread": longest, "X-PanGu-Unknown": unknown}
    return {
        name: ", ".join(f"{quote(param)}={count}" for param, count in counts.items())
        for name, counts in headers.items()
        if counts
    }


def answer_of(
    asked: ImageRequest, job: Job, pictures: GeneratedImages, url_of: Callable[[bytes, str], str]
) -> ImageResponse:
    """OpenAI's answer to a drawn request. url_of: (file, format) -> where it can be fetched."""
    data, revised = [], {"revised_prompt": pictures.revised_prompt}
    for index, file in enumerate(pictures.files):
        if file is None:
            data.append(ImageData(error=withheld().body.error, seed=job.seed_of(index)))
            continue
        if asked.as_url:
            data.append(ImageData(url=url_of(file, asked.output_format), seed=job.seed_of(index), **revised))
        else:
            data.append(ImageData(b64_json=base64.b64encode(file).decode(), seed=job.seed_of(index), **revised))
    return ImageResponse(
        created=int(time.time()),
        data=data,
        output_format=asked.output_format,
        quality=asked.quality,
        size=size_of(pictures),
        **facts_of(asked, job, pictures).model_dump(),
    )


def size_of(pictures: GeneratedImages) -> str:
    width, height = pictures.width_height
    return f"{width}x{height}"


def events_of(
    kind: Kind, asked: ImageRequest, job: Job, message: PartialImage | GeneratedImages
) -> list[dict[str, Any]]:
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
    if isinstance(message, PartialImage):
        own: dict[str, Any] = {
            "type": f"{kind}.partial_image",
            "partial_image_index": message.index,
            "size": asked.size,
            **({"unread": [asdict(each) for each in message.unread]} if message.unread else {}),
            **({"unknown": [asdict(each) for each in message.unknown]} if message.unknown else {}),
        }
    else:
        own = {"type": f"{kind}.completed", "size": size_of(message), **facts_of(asked, job, message).model_dump()}
        if message.revised_prompt is not None:
            own["revised_prompt"] = message.revised_prompt
    images = [
        own | common | {"b64_json": base64.b64encode(file).decode(), "image_index": index, "seed": job.seed_of(index)}
        for index, file in enumerate(message.files)
        if file is not None
    ]
    hidden = [
        index for index, file in enumerate(message.files) if file is None and isinstance(message, GeneratedImages)
    ]
    errors = [{"type": "error", "image_index": index, "seed": job.seed_of(index)} for index in hidden]
    return images + [error | withheld().body.model_dump() for error in errors]
