"""The body of a request: OpenAI's fields, PanGu's extensions, and the one sentence that a bad one gets.

Turns JSON into an `ImageRequest` or an `ApiError`.
"""

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
)

from pangu.config import Role
from pangu.serve.api import bounds
from pangu.serve.api.request_fields import (
    BridgeField,
    CoopField,
    GuidanceOfHalves,
    HalfGuidance,
    HalfIntervals,
    HalfSteps,
    IntervalOfHalves,
    LoraField,
    LoraScales,
    OutputFormat,
    Prompt,
    Scheduler,
    StepsOfHalves,
    Strict,
    Styles,
    TextureField,
    without_controls,
)
from pangu.serve.error_answers import MODEL, ApiError, body_too_large, printable, unknown_model
from pangu.serve.inference.named_experts import EVERY
from pangu.serve.settings import MAX_LORAS

DALLE = "dall-e"
"""Models of this name answered with URLs unless asked otherwise, and their clients expect it."""


class ImageRequest(Strict):
    """The body of `POST /v1/images/generations`. What OpenAI does not define is an extension of PanGu."""

    prompt: Prompt = Field(min_length=1, description="What to draw, in Chinese or English")
    model: str = Field(MODEL, max_length=200, description=f"'{MODEL}'; GET /v1/models lists what is served")
    n: int = Field(1, ge=1, le=bounds.MAX_IMAGES, description="Number of images; image i is drawn from seed + i")
    size: str = Field(
        "auto",
        max_length=16,
        description=f"'auto' or WIDTHxHEIGHT, each a multiple of {bounds.SIDE_STEP} from {bounds.MIN_SIDE} to "
        f"{bounds.MAX_SIDE}; all images together at most {bounds.MAX_PIXELS} pixels",
    )
    quality: Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"] = Field(
        "auto",
        description="Steps where num_inference_steps is not given: half (low), all, twice (high, hd), three (xhigh) or four "
        "times (max) the release's own",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="Left out, it is 'url' for model names that begin with dall-e, as with OpenAI, and else 'b64_json'",
    )
    output_format: OutputFormat = Field("png", description="Encoding of the image files")
    output_compression: int = Field(90, ge=0, le=100, description="Quality of jpeg and webp")
    background: Literal["auto", "opaque", "transparent"] = Field(
        "auto", description="Accepted for compatibility; images are always opaque, and the answer says so"
    )
    input_fidelity: Literal["low", "high"] | None = Field(
        None, description="Accepted for compatibility, without effect"
    )
    complexity: Literal["low", "medium", "high"] | None = Field(
        None, description="Accepted for compatibility, without effect"
    )
    moderation: Literal["auto", "low"] = Field("auto", description="Accepted for compatibility")
    stream: bool = Field(False, description="Answer with server-sent events")
    partial_images: int = Field(0, ge=0, le=bounds.MAX_PARTIALS, description="Partial images while streaming")
    user: str | None = Field(None, max_length=256, description="Accepted for compatibility; not stored")
    safety_identifier: str | None = Field(None, max_length=256, description="Accepted for compatibility; not stored")
    negative_prompt: Prompt | None = Field(None, description="Extension: what to steer away from")
    num_inference_steps: StepsOfHalves | None = Field(
        None, description="Extension: denoising steps, or those of each half: {'structure': 6, 'texture': 4}"
    )
    step_split: Literal["schedule", "log_snr"] | None = Field(
        None,
        description="Extension: how the halves share the steps: by the sampler's timesteps, or by the log-SNR that each crosses",
    )
    guidance_scale: GuidanceOfHalves | None = Field(
        None, description="Extension: strength of the prompt, or that in each half: {'structure': 3.0, 'texture': 5.0}"
    )
    guidance_interval: IntervalOfHalves | None = Field(
        None,
        description="Extension: lowest and highest timestep with guidance (arXiv 2404.07724), or those of each half; "
        "elsewhere the negative prompt is not asked for, which costs half",
    )
    seed: int | None = Field(
        None, ge=0, le=bounds.MAX_SEED, description="Extension: the same seed gives the same bytes"
    )
    scheduler: Scheduler | None = Field(None, description="Extension: another sampler than the release's own")
    style: Styles | Literal["vivid", "natural"] | None = Field(
        None,
        description="Extension: style -> scale, as {'photo': 1.0} (PanGu-Draw, Section 3.3). OpenAI's 'vivid' and 'natural' are "
        "accepted without effect",
    )
    lora_scales: LoraScales | None = Field(None, description="Extension: weights of the adapters")
    loras: list[LoraField] | None = Field(
        None, max_length=MAX_LORAS, description="Extension: adapters for this request alone; GET /v1/models lists them"
    )
    enhance: bool = Field(
        False,
        description="Extension: let the chat model that the server declares word the prompt, see `revised_prompt`",
    )
    long_prompts: Literal["cut", "windows"] | None = Field(
        None,
        description="Extension: text beyond what the encoders read at once is cut, or read in windows where they can; left "
        "out, as the server is set",
    )
    texture: TextureField | None = Field(None, description="Extension: what differs in the texture half")
    coop: CoopField | None = Field(None, description="Extension: Coop-Diffusion with declared partners")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _text_is_printable(cls, text: str | None) -> str | None:
        return without_controls(text)

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
        match = bounds.SIZE.fullmatch(size)
        sides = [int(side) for side in match.groups()] if match else [0]
        if not all(bounds.MIN_SIDE <= side <= bounds.MAX_SIDE and side % bounds.SIDE_STEP == 0 for side in sides):
            raise ValueError(
                f"must be 'auto' or WIDTHxHEIGHT with both a multiple of {bounds.SIDE_STEP} from {bounds.MIN_SIDE} to "
                f"{bounds.MAX_SIDE}"
            )
        return size

    @property
    def intervals(self) -> dict[Role, tuple[float, float]]:
        """Lowest and highest timestep of the guidance, of the halves that are not guided at all of theirs."""
        given = self.guidance_interval
        each = {role: getattr(given, role) if isinstance(given, HalfIntervals) else given for role in EVERY}
        return {role: (float(own[0]), float(own[1])) for role, own in each.items() if own is not None}

    @property
    def styles(self) -> dict[str, float]:
        """Scales of style guidance."""
        return self.style if isinstance(self.style, dict) else {}

    @property
    def as_url(self) -> bool:
        """Whether images are answered as URLs."""
        if self.response_format is None:
            return self.model.startswith(DALLE)
        return self.response_format == "url"

    @property
    def warnings(self) -> list[str]:
        """A sentence for each field that is accepted and changes nothing."""
        without = "has no effect here"
        said = []
        if isinstance(self.style, str):
            said.append(f"style '{self.style}' {without}; styles of the model are scales, as {{'photo': 1.0}}.")
        if self.background == "transparent":
            said.append(f"background 'transparent' {without}; the images are opaque.")
        if self.input_fidelity is not None:
            said.append(f"input_fidelity {without}; an edit always keeps the layout of its image.")
        if self.complexity is not None:
            said.append(f"complexity {without}; num_inference_steps is what an image costs.")
        return said

    @property
    def width_height(self) -> tuple[int, int] | None:
        """Pixels (width, height), or None for the size that the model prefers."""
        match = bounds.SIZE.fullmatch(self.size)
        return (int(match[1]), int(match[2])) if match else None


class EditRequest(ImageRequest):
    """The fields of an edit or a variation, beside its files."""

    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Extension: part of the noise that the image is put under; left out, that of the boundary, so that texture "
        "alone draws. More lets the structure half draw another layout",
    )


def parse_body(body: bytes, aliases: Collection[str] = ()) -> ImageRequest:
    """The request that a client's bytes mean. aliases: further names of the model.

    Raises:
        ApiError: 413 too long, 400 no JSON object or a field out of its bounds (`param` names it), 404 unknown model.
    """
    if len(body) > bounds.MAX_BODY_BYTES:
        raise body_too_large(bounds.MAX_BODY_BYTES)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", code="invalid_json") from None
    return parse_request(value, aliases)


def parse_request(value: Any, aliases: Collection[str] = (), kind: type[ImageRequest] = ImageRequest) -> ImageRequest:
    """The request that a JSON value means; raises `ApiError` like `parse_body`. kind: whose fields it may have."""
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object with a 'prompt'.", code="invalid_json")
    for name in value:
        # Before pydantic looks, because it can not say the name of a field that is no valid Unicode.
        if name not in kind.model_fields:
            raise _unknown(printable(name))
        _check_names(value[name], name)
    try:
        # OpenAI's clients send null for whatever their caller left out.
        request = kind.model_validate({name: field for name, field in value.items() if field is not None})
    except ValidationError as error:
        raise _invalid(error) from None
    _check_together(request, aliases)
    return request


def _check_together(request: ImageRequest, aliases: Collection[str]) -> None:
    """What single fields can not know."""
    if request.model != MODEL and request.model not in aliases:
        raise unknown_model(request.model)
    width, height = request.width_height or (0, 0)
    if width * height * request.n > bounds.MAX_PIXELS:
        most = bounds.MAX_PIXELS // (width * height)
        raise _bad("n", f"at most {most} images of {request.size} can be asked for at once")
    if request.partial_images and not request.stream:
        raise _bad("partial_images", "partial images need 'stream': true")
    _check_halves(request)
    if request.coop is not None:
        for name in ("scheduler", "texture", "lora_scales", "loras", "long_prompts", "step_split", "guidance_interval"):
            if getattr(request, name) is not None:
                raise _bad(name, "it can not be combined with 'coop'")
        for name in ("num_inference_steps", "guidance_scale"):
            if isinstance(getattr(request, name), Strict):
                raise _bad(name, "one number is needed with 'coop'")
        if request.n > bounds.MAX_COOP_IMAGES:
            raise _bad("n", f"at most {bounds.MAX_COOP_IMAGES} images can be asked for at once with 'coop'")


def _check_halves(request: ImageRequest) -> None:
    """What is said of one half twice, or does not go together."""
    for name in ("num_inference_steps", "guidance_scale"):
        if isinstance(getattr(request, name), Strict) and getattr(request.texture, name, None) is not None:
            raise _bad(f"texture.{name}", f"'{name}' has a value for texture already")
    if request.step_split == "log_snr":
        if isinstance(request.num_inference_steps, HalfSteps):
            raise _bad("step_split", "'num_inference_steps' has a number for each half already")
        if request.texture is not None and request.texture.num_inference_steps is not None:
            raise _bad("texture.num_inference_steps", "'step_split' says how many steps texture takes")
    for param, interval in request.intervals.items():
        if interval[0] > interval[1]:
            raise _bad(f"guidance_interval.{param}", "the lowest timestep comes first")


def _check_names(value: Any, field: str) -> None:
    """Refuse names inside an object that are no valid Unicode."""
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if not _is_unicode(name):
            raise _unknown(f"{field}.{printable(name)}")
        if isinstance(inner, dict) and not all(map(_is_unicode, inner)):
            raise _bad(field, "names must be valid Unicode")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(param: str, reason: str) -> ApiError:
    return ApiError(400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value")


def _unknown(param: str) -> ApiError:
    return ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _invalid(error: ValidationError) -> ApiError:
    """The first complaint as one sentence; one is what a client can act on."""
    first = error.errors(include_url=False, include_input=False)[0]
    # Branches of a union and the word [key] are no names that a client knows.
    place = [part for part in first["loc"] if isinstance(part, str) and part.isidentifier()]
    param = printable(".".join(_known(place)))
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return _unknown(printable(".".join([*_known(place[:-1]), str(first["loc"][-1])])))
    return _bad(param, first["msg"].removeprefix("Value error, ").removesuffix("."))


def _known(place: list[str]) -> list[str]:
    """The part of a location that names fields of the body: the first, and the second where the first is an object."""
    nested: dict[str, type[Strict]] = {
        "coop": CoopField,
        "texture": TextureField,
        "lora_scales": LoraScales,
        "num_inference_steps": HalfSteps,
        "guidance_scale": HalfGuidance,
        "guidance_interval": HalfIntervals,
    }
    if len(place) < 2 or place[0] not in nested or place[1] not in nested[place[0]].model_fields:
        return place[:1]
    if place[1] == "bridge" and len(place) > 2 and place[2] in BridgeField.model_fields:
        return place[:3]
    return place[:2]
