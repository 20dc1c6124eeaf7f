"""How a half draws some of its steps from what it computed in the steps before."""

from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen


class Reuse(Frozen):
    """A switch of one half; it changes the picture a little, and is tuned by looking.

    deep_features: UNets; all but the level of full resolution is computed every so many steps (DeepCache, arXiv 2312.00858).
    first_block, taylor: transformers, by diffusers' hooks; blocks behind the first are left out while what the first adds hardly
    changes, or attention is extrapolated between steps (TaylorSeer, arXiv 2503.06923).
    """

    kind: Literal["deep_features", "first_block", "taylor"] = Field(
        "deep_features", description="deep_features of UNets; first_block or taylor of transformers"
    )
    every: int = Field(2, ge=2, le=20, description="Of deep_features and taylor: steps from one whole pass to the next")
    threshold: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Of first_block: relative change of what the first block adds that leaves the others out",
    )
