"""The evaluation protocol of a pair: what is generated, from which captions, and what is measured on it.

The hash of the protocol stands beside every number, so that only comparable numbers are compared.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from pangu.config import Frozen
from pangu.data import wording
from pangu.data.captions import LANGUAGES
from pangu.data.card import Split
from pangu.errors import UserError
from pangu.evaluate import features

Metric = Literal["retrieval", "fid", "kid", "is", "clip", "cn_clip", "loss", "style", "outside"]
METRICS: tuple[Metric, ...] = get_args(Metric)
FeatureSpace = Literal["thumbnail-16", "inception"]
LOWER_IS_BETTER = ("outside", "fid", "kid", "loss")


def _unless_given(default: Any, description: str) -> Any:
    """A field that is left out of the hash where nothing is given, so that protocols of before keep theirs."""
    return Field(default, exclude_if=lambda value: not value, description=description)


class Protocol(Frozen):
    """How a pair is judged. Two numbers may be compared if the hashes of their protocols are equal."""

    split: Split = Field(
        "train",
        description="Rows that distributions, CLIP scores and losses are measured on; with 'held_out', understanding "
        "(captions never trained) is measured beside memory (captions trained)",
    )
    prompts_per_language: int | None = Field(24, ge=1, description="Captions of each split; None: all of them")
    candidates: int | None = Field(None, ge=1, description="Images that `retrieval` ranks; None: every image")
    memory_candidates: int = Field(400, ge=1, description="Training images that `memory` ranks, at most")
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=50)
    scheduler: str = Field("DDIMScheduler", description="Class of the sampler, out of diffusers")
    seed: int = Field(1234, ge=0)
    metrics: tuple[Metric, ...] = ("retrieval",)
    retrieval_space: Literal["thumbnail-16"] = features.NAME
    feature_space: FeatureSpace = Field(features.NAME, description="Space of fid, kid and is")
    loss_images: int = Field(64, ge=1, description="Images that the losses are measured on, at most")
    loss_range: Literal["own", "whole"] = Field("own", description="Timesteps of `loss`: each generator's own, or all")
    loss_buckets: int = Field(10, ge=1, description="Equal parts of [0, T) that losses are averaged over")
    weights: dict[str, str] = Field({}, description="Content hash of each judge that was loaded")
    templates: dict[str, tuple[str, ...]] = _unless_given(
        {},
        "Templates, by language, that each trained caption is also drawn in: the i-th prompt in template i mod their number",
    )
    texture_guidance: float | None = Field(
        None,
        ge=0,
        le=50,
        exclude_if=lambda value: value is None,
        description="Scale of guidance of the texture half, where it is another",
    )
    keywords: bool = _unless_given(
        False, "Each prompt's row is also drawn from one of its keywords instead of its caption"
    )
    styles: dict[str, float] = _unless_given(
        {}, "Style of a row -> the scale at which its prompt asks for that style; prompts are spread evenly over styles"
    )

    @field_validator("templates")
    @classmethod
    def _are_templates(cls, templates: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if unknown := templates.keys() - set(LANGUAGES):
            raise ValueError(f"'{min(unknown)}' is no language of captions, which are {', '.join(LANGUAGES)}")
        for language, own in templates.items():
            for template in own:
                if found := wording.trouble(template):
                    raise ValueError(f"{language}: '{template}' {found}")
        return {language: own for language, own in templates.items() if own}


class EvaluateOutcome(Frozen):
    """A pair and its numbers."""

    pair_id: str
    pair: str
    metrics: dict[str, float]
    protocol: Protocol
    protocol_hash: str
    sample_grid: str
    prompt_scores: str = Field("", description="File of `PromptScores`: what every prompt's image reached")
    already_done: bool = False


def check_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """The named metrics, each once, in the order of `METRICS`.

    Raises:
        UserError: one of them does not exist, or none is named.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"There is no metric '{unknown[0]}'; choose from {', '.join(METRICS)}.")
    if not names:
        raise UserError(f"Name at least one metric of {', '.join(METRICS)}.")
    return tuple(metric for metric in METRICS if metric in names)


def lower_is_better(metric: str) -> bool:
    """Whether smaller values of a measured number, e.g. `fid_inception_zh`, mean a better pair."""
    return metric.split("_")[0] in LOWER_IS_BETTER
