"""The parts of a request's body: fields that stand in it more than once, and what each of them bounds."""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from pangu.config import Between
from pangu.serve.api import bounds

Prompt = Annotated[str, StringConstraints(max_length=bounds.MAX_PROMPT_CHARS)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=bounds.MAX_NAME_CHARS)]
OutputFormat = Literal["png", "jpeg", "webp"]
Scheduler = Literal["ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "unipc"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
StyleScale = Annotated[float, Field(ge=-bounds.MAX_STYLE_SCALE, le=bounds.MAX_STYLE_SCALE, allow_inf_nan=False)]
LoraScale = Annotated[float, Field(ge=-bounds.MAX_LORA_SCALE, le=bounds.MAX_LORA_SCALE, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=1, le=bounds.MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=bounds.MAX_GUIDANCE, allow_inf_nan=False)]
Styles = Annotated[dict[Name, StyleScale], Field(max_length=bounds.MAX_STYLES)]
ImageText = Annotated[str, StringConstraints(max_length=bounds.MAX_IMAGE_BYTES * 4 // 3 + 64)]


class Strict(BaseModel):
    """A part of the body: no unknown fields, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoraScales(Strict, Between[LoraScale]):
    """Weights of the adapters of the two halves; 1 where none is given."""

    structure: LoraScale | None = None
    texture: LoraScale | None = None


class LoraField(Strict, Between[LoraScale]):
    """An adapter of the list that the server declares, and its weight on each half."""

    name: Name
    weight: LoraScale = Field(1.0, description="On the halves that it has a part for")
    structure: LoraScale | None = Field(None, description="Its weight on the structure half, where that is another")
    texture: LoraScale | None = Field(None, description="Its weight on the texture half, where that is another")


class TextureField(Strict):
    """What differs below the boundary. The layout stays as it is, and is not drawn again if it is still in the cache."""

    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    style: Styles | None = Field(None, description="In the place of the request's own; {} takes styles away")
    guidance_scale: Guidance | None = None
    num_inference_steps: Steps | None = Field(None, description="Texture steps as in a whole of that many")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _text_is_printable(cls, text: str | None) -> str | None:
        return without_controls(text)


class HalfSteps(Strict, Between[Steps]):
    """Steps of each half."""

    structure: Steps
    texture: Steps


class HalfGuidance(Strict, Between[Guidance]):
    """Strength of the prompt in each half."""

    structure: Guidance
    texture: Guidance


Timestep = Annotated[float, Field(ge=0, le=bounds.MAX_TIMESTEP, allow_inf_nan=False)]
Interval = Annotated[list[Timestep], Field(min_length=2, max_length=2)]


class HalfIntervals(Strict, Between[Interval]):
    """Lowest and highest timestep at which each half is guided; one that is left out is guided at all of its own."""

    structure: Interval | None = None
    texture: Interval | None = None


# Tags that are no identifiers, so that no refusal names them: it is about the form that was meant.
_FORM = Discriminator(lambda value: "[each]" if isinstance(value, dict | Strict) else "[one]")
StepsOfHalves = Annotated[Annotated[Steps, Tag("[one]")] | Annotated[HalfSteps, Tag("[each]")], _FORM]
GuidanceOfHalves = Annotated[Annotated[Guidance, Tag("[one]")] | Annotated[HalfGuidance, Tag("[each]")], _FORM]
IntervalOfHalves = Annotated[Annotated[Interval, Tag("[one]")] | Annotated[HalfIntervals, Tag("[each]")], _FORM]


class BridgeField(Strict):
    """When and how pictures cross between the pair and its partners: the cost controls of Coop-Diffusion."""

    every: int = Field(1, ge=1, le=bounds.MAX_STEPS, description="Ask partners at every n-th step only")
    start: Fraction = Field(0.0, description="Part of the steps at which partners begin")
    stop: Fraction = Field(1.0, description="Part of the steps at which partners end")
    upsample: Literal["bilinear", "lanczos", "spanx2", "spanx4"] | None = None

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.start >= self.stop:
            raise ValueError("start must be less than stop")
        return self


class CoopField(Strict):
    """Partners that draw along (PanGu-Draw, Algorithm 1), out of the list that the server declares."""

    partners: list[Name] = Field(min_length=1, max_length=bounds.MAX_PARTNERS, description="GET /v1/models lists them")
    strength: Fraction | Annotated[list[Fraction], Field(max_length=bounds.MAX_PARTNERS)] = Field(
        0.5, description="d of Eq. 5: one number for all partners, or one each; together at most 1"
    )
    bridge: BridgeField = BridgeField()
    control_image: ImageText | Annotated[list[ImageText | None], Field(max_length=bounds.MAX_PARTNERS)] | None = Field(
        None, description="PNG in base64, for all partners that take one; or one entry for each partner"
    )

    @model_validator(mode="after")
    def _lists_fit(self) -> Self:
        for name in ("strength", "control_image"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != len(self.partners):
                raise ValueError(f"{name} is a list of {len(value)}, but there are {len(self.partners)} partners")
        if sum(self.strengths) > 1 + 1e-9:
            raise ValueError("strength adds up to more than 1 over the partners")
        return self

    @property
    def strengths(self) -> list[float]:
        """d of each partner."""
        return self.strength if isinstance(self.strength, list) else [self.strength] * len(self.partners)


def without_controls(text: str | None) -> str | None:
    """Raises ValueError for NUL and its like, and for text that no encoder accepts."""
    if text is not None and bounds.CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return text
