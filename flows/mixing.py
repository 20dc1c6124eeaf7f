"""A training on several datasets: the further ones that a form names are encoded with its recipe, which then names them."""

from collections.abc import Sequence

from flows.options import FurtherDataset
from flows.stages import encode, recipe_file
from pangu.config import Mixture, MixturePart, Recipe
from pangu.recipes import recipe as named


def with_further(recipe: str, further: Sequence[FurtherDataset], devices: list[str]) -> str:
    """The recipe (its name or file) with the further datasets beside those that it names itself, each encoded with it.

    Raises:
        UserError: one has no such version, or cannot be encoded with this recipe.
    """
    if not further:
        return recipe
    found = {}
    for one in further:
        stage = f"encode-{one.dataset.replace('_', '-')}"  # keys of artifacts take no underscore
        found[one.dataset] = encode(one.dataset, one.version, recipe, devices, stage)["encode_id"]
    return recipe_file(mixed(named(recipe), further, found))


def mixed(recipe: Recipe, further: Sequence[FurtherDataset], encode_ids: dict[str, str]) -> Recipe:
    """A recipe that trains on the further datasets, too, of which each is encoded under an id."""
    parts = [MixturePart(dataset=one.dataset, encode_id=encode_ids[one.dataset], weight=one.weight) for one in further]
    own = recipe.mixture
    return recipe.model_copy(update={"mixture": Mixture(weight=own.weight, also=(*own.also, *parts))})
