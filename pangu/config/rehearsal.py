"""What a start knew, kept while it learns something else."""

from pydantic import Field

from pangu.config.tree import Frozen

REHEARSAL = "rehearsal"
"""What such rows are called where other rows are called by their dataset."""


class Rehearsal(Frozen):
    """Pictures that the start draws itself are shown beside those of the dataset (prior preservation; DreamBooth,
    arXiv 2208.12242, Section 3.2)."""

    pictures: int = Field(200, ge=1, le=100_000, description="So many are drawn before the first step")
    share: float = Field(0.5, gt=0, lt=1, description="Of what is trained on")
    prompts: tuple[str, ...] = Field(
        (), description="What is drawn, one after the other and again; left out: what the start proposes"
    )
