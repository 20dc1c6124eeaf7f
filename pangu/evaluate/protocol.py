"""The evaluation protocol of a pair: what is generated, from which captions, and what is measured on it.

The hash of the protocol stands beside every number, so that only comparable numbers are compared. Knows nothing of models.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from pangu.config import Frozen
from pangu.data.card import Split
from pangu.errors import UserError
from pangu.evaluate import features

Metric = Literal["retrieval", "fid", "kid", "is", "clip", "cn_clip", "loss"]
METRICS: tuple[Metric, ...] = get_args(Metric)
FeatureSpace = Literal["thumbnail-16", "inception"]
LOWER_IS_BETTER = ("fid", "kid", "loss")


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
