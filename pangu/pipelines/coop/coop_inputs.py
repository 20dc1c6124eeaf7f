"""One checked call of a cooperation, and how each model is asked in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pangu.errors import UserError
from pangu.pipelines.coop.handoff import Handoff
from pangu.pipelines.coop.model_adapter import GenerationRequest
from pangu.pipelines.coop.partner import Partner
from pangu.sampling.noise_sources import Generators


@dataclass(frozen=True)
class CoopInputs:
    """What `CoopPipeline.__call__` was asked, with sizes and lists filled in. height, width: of the main's pictures, px."""

    prompts: list[str]
    negatives: list[str] | None
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    images_per_prompt: int
    partners: tuple[Partner, ...]
    handoff: Handoff | None = None
    generators: Generators = None
    latents: Tensor | None = None
    image: Any = None
    conditioning_scale: float | list[float] = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    batched_guidance: bool = True
    guidance_rescale: float = 0.0
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None

    @property
    def images(self) -> int:
        return len(self.prompts) * self.images_per_prompt

    def of_main(self) -> GenerationRequest:
        """How the main model is asked."""
        return GenerationRequest(
            self.prompts,
            self.negatives,
            self.guidance_scale,
            self.height,
            self.width,
            self.images_per_prompt,
            self.image,
            self.conditioning_scale,
            self.batched_guidance,
            self.extra,
        )

    def of_partner(self, partner: Partner | Handoff, who: str, height: int, width: int) -> GenerationRequest:
        """How a partner is asked, or the low-resolution model: its own words where it has some, the main's where not.

        Raises:
            UserError: another number of prompts than the main's.
        """
        prompts = self.prompts if partner.prompt is None else _spread(partner.prompt, len(self.prompts), who, "prompt")
        negatives = self.negatives
        if partner.negative_prompt is not None:
            negatives = _spread(partner.negative_prompt, len(self.prompts), who, "negative_prompt")
        scale = self.guidance_scale if partner.guidance_scale is None else partner.guidance_scale
        if not 0 <= scale <= 50:
            raise UserError(f"{who}: guidance_scale must lie in 0 ... 50, not {scale}.")
        return GenerationRequest(
            prompts,
            negatives,
            scale,
            height,
            width,
            self.images_per_prompt,
            partner.image,
            partner.conditioning_scale,
            self.batched_guidance,
            partner.extra,
        )


def changed_partners(partners: Sequence[Partner], changes: Sequence[Mapping[str, Any]] | None) -> tuple[Partner, ...]:
    """The partners with the values of one call.

    Raises:
        UserError: not one mapping for each partner, or a value that a call can not change.
    """
    if changes is None:
        return tuple(partners)
    if len(changes) != len(partners):
        raise UserError(
            f"partners holds changes for {len(changes)}, but there are {len(partners)}; give one mapping each."
        )
    return tuple(partner.changed(values) for partner, values in zip(partners, changes, strict=True))


def _spread(texts: str | list[str], count: int, who: str, field_name: str) -> list[str]:
    if isinstance(texts, str):
        return [texts] * count
    if len(texts) != count:
        raise UserError(
            f"{who}: {field_name} is a list of {len(texts)}, but the main model has {count}; give one each."
        )
    return list(texts)
