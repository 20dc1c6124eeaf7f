"""When a pair may be released."""

from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen


class GateRule(Frozen):
    """What one measured number of a new pair must be before the pair is released."""

    metric: str = Field(
        min_length=1, description="A number of the evaluation; without _zh or _en it is asked of each language"
    )
    at_least: float | None = Field(None, description="Smallest value allowed, whatever the champion has")
    at_most: float | None = Field(None, description="Largest value allowed, whatever the champion has")
    against_champion: Literal["not_compared", "not_shown_worse", "not_inferior", "better"] = Field(
        "not_shown_worse",
        description="not_shown_worse: the interval of the difference is not wholly below -margin; not_inferior: it lies wholly "
        "above -margin; better: it lies wholly above +margin",
    )
    margin: float = Field(0.0, ge=0, description="Difference that does not matter, in the metric's unit")


class Gate(Frozen):
    """When a pair may take the champion's place: all rules hold on the same prompts, by a paired bootstrap."""

    rules: tuple[GateRule, ...] = (GateRule(metric="retrieval_similarity"),)
    floor: Literal["start", "none"] = Field(
        "start",
        exclude_if=lambda value: value == "start",
        description="What a first pair is compared with while there is no champion. start: what its training started from, and "
        "random weights must be shown to be worse; none: nothing, so any first pair passes",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval of the mean difference per prompt")
    resamples: int = Field(2000, ge=100, le=100_000, description="Of the prompts, with replacement")
