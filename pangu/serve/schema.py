"""The types of the HTTP API: OpenAI's Images request, response and error, and every bound, in one place.

Turns bytes of a client into an `ImageRequest` or an `ApiError`. Knows nothing of Ray, FastAPI or models.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

MODEL = "pangu-pair"
MAX_BODY_BYTES = 64 * 1024
MAX_PROMPT_CHARS = 4000
MAX_IMAGES = 4
MIN_SIDE, MAX_SIDE, SIDE_STEP = 32, 2048, 8
MAX_STEPS = 200
MAX_GUIDANCE = 50.0
MAX_SEED = 2**32 - 1

SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]
OutputFormat = Literal["png", "jpeg", "webp"]


class ImageRequest(BaseModel):
    """The body of `POST /v1/images/generations`. What OpenAI does not define is an extension of PanGu."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Prompt = Field(min_length=1, description="What to draw, in Chinese or English")
    model: str = Field(MODEL, max_length=200, description=f"'{MODEL}'; GET /v1/models lists what is served")
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="Number of images; image i is drawn from seed + i")
    size: str = Field(
        "auto",
        max_length=16,
        description=f"'auto' or WIDTHxHEIGHT, each a multiple of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}",
    )
    response_format: Literal["b64_json", "url"] = Field("b64_json", description="'url' answers with a data: URL")
    output_format: OutputFormat = Field("png", description="Encoding of the image files")
    output_compression: int = Field(90, ge=0, le=100, description="Quality of jpeg and webp")
    quality: Literal["auto", "standard"] = Field("auto", description="Accepted for compatibility; steps decide quality")
    stream: Literal[False] = Field(False, description="Streaming is not offered")
    user: str | None = Field(None, max_length=256, description="Accepted for compatibility; not stored")
    negative_prompt: Prompt | None = Field(None, description="Extension: what to steer away from")
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Extension: denoising steps")
    guidance_scale: float | None = Field(
        None, ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="Extension: strength of the prompt"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Extension: the same seed gives the same bytes")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _text_is_printable(cls, text: str | None) -> str | None:
        if text is not None and CONTROL.search(text):
            raise ValueError("must not contain control characters")
        return text

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("size")
    @classmethod
    def _size_is_possible(cls, size: str) -> str:
        if size == "auto":
            return size
        match = SIZE.fullmatch(size)
        sides = [int(side) for side in match.groups()] if match else [0]
        if not all(MIN_SIDE <= side <= MAX_SIDE and side % SIDE_STEP == 0 for side in sides):
            raise ValueError(
                f"must be 'auto' or WIDTHxHEIGHT with both a multiple of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}"
            )
        return size

    @property
    def width_height(self) -> tuple[int, int] | None:
        """Pixels (width, height), or None for the size that the model prefers."""
        match = SIZE.fullmatch(self.size)
        return (int(match[1]), int(match[2])) if match else None


class ReleaseName(BaseModel):
    """Which registered versions drew an image."""

    pair_version: int
    structure_version: int
    texture_version: int


class ImageData(BaseModel):
    """One image of the answer; `seed` alone draws it again."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImageResponse(BaseModel):
    """OpenAI's answer, and what PanGu adds: `release`, `seed`, `scheduler`, `num_inference_steps`, `seconds`."""

    created: int = Field(description="Unix time in seconds")
    data: list[ImageData]
    output_format: OutputFormat
    size: str = Field(description="WIDTHxHEIGHT in pixels")
    release: ReleaseName
    seed: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    seconds: dict[str, float] = Field(description="Wall-clock seconds per stage")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """What every answer with a status of 400 or more carries."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal, as the client will see it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def parse_body(body: bytes) -> ImageRequest:
    """The request that a client's bytes mean.

    Raises:
        ApiError: 413 too long, 400 no JSON object or a field out of its bounds (`param` names it), 404 unknown model.
    """
    if len(body) > MAX_BODY_BYTES:
        raise body_too_large()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", code="invalid_json") from None
    return parse_request(value)


def parse_request(value: Any) -> ImageRequest:
    """The request that a JSON value means; raises `ApiError` like `parse_body`."""
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object with a 'prompt'.", code="invalid_json")
    for name in value:
        # Before pydantic looks, because it can not say the name of a field that is no valid Unicode.
        if name not in ImageRequest.model_fields:
            param = _printable(name)
            raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    try:
        # OpenAI's clients send null for whatever their caller left out.
        request = ImageRequest.model_validate({name: field for name, field in value.items() if field is not None})
    except ValidationError as error:
        raise _invalid(error) from None
    if request.model != MODEL:
        raise unknown_model(request.model)
    return request


def unknown_model(name: str) -> ApiError:
    return ApiError(
        404, f"The model '{_printable(name)}' does not exist; use '{MODEL}'.", param="model", code="model_not_found"
    )


def body_too_large() -> ApiError:
    return ApiError(413, f"The body must not be longer than {MAX_BODY_BYTES} bytes.", code="request_too_large")


def _invalid(error: ValidationError) -> ApiError:
    """The first complaint as one sentence; one is what a client can act on."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = str(first["loc"][0])
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if param == "stream":
        return ApiError(400, "Streaming is not offered; leave 'stream' out.", param=param, code="unsupported_parameter")
    reason = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return ApiError(400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value")


def _printable(text: str) -> str:
    """Client text that is safe to repeat: short, and without lone surrogates, which no encoder accepts."""
    short = text if len(text) <= 64 else text[:64] + "..."
    return short.encode("utf-8", "backslashreplace").decode()
