"""Several datasets in one training."""

from typing import Annotated

from pydantic import Field, model_validator

from pangu.config.tree import Frozen

Weight = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
"""How often each row of a dataset appears in an epoch: 2 is twice, 0.25 is a quarter of the rows, another one in each epoch."""


class MixturePart(Frozen):
    """A further dataset, encoded with the recipe that names it."""

    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="Name of its card")
    encode_id: str = Field(pattern=r"^[0-9a-f]{16}$", description="The id that `pangu encode` printed")
    weight: Weight = Field(1.0, description="How often each of its rows appears in an epoch")


class Mixture(Frozen):
    """What is trained on beside the dataset that a training is told, and how often each of its rows is drawn."""

    weight: Weight = Field(1.0, description="Of the dataset that the training is told")
    also: tuple[MixturePart, ...] = Field((), description="Further datasets")

    @model_validator(mode="after")
    def _each_once(self) -> "Mixture":
        names = [part.dataset for part in self.also]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the mixture names dataset '{twice}' twice; give it a weight instead")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether it is one dataset, each row of which appears once an epoch: no mixture at all."""
        return not self.also and self.weight == 1
