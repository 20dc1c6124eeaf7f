"""How a half draws some of its steps from what it computed in the steps before."""

from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen


class Reuse(Frozen):
    """A switch of one half; it changes the picture a little, and is tuned by looking.

    deep_features: UNets; all but the level of full resolution is computed every so many steps (DeepCache, arXiv 2312.00858).
    first_block, taylor, mag: transformers, by diffusers' hooks; blocks behind the first are left out while what the first adds
    hardly changes, attention is extrapolated between steps (TaylorSeer, arXiv 2503.06923), or all blocks are left out for some
    steps while what they were measured to add hardly changes in size (MagCache, arXiv 2506.09045).
    """

    kind: Literal["deep_features", "first_block", "taylor", "mag"] = Field(
        "deep_features", description="deep_features of UNets; first_block, taylor or mag of transformers"
    )
    every: int = Field(
        2,
        ge=2,
        le=20,
        description="Of deep_features and taylor: steps from one whole pass to the next; of mag the most",
    )
    threshold: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Of first_block: relative change of what the first block adds that leaves the others out; of mag: change in "
        "size of what all blocks add, summed since the last whole pass",
    )
