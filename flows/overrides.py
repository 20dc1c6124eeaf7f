"""A form's changes to a recipe: from the fields that a person filled in to the recipe that every stage of the run is given."""

from typing import Any

from pydantic import ValidationError

from flows.parameters import RecipeChanges
from pangu.config import Recipe
from pangu.errors import UserError

OF_OPTIMIZATION = ("lr_peak", "lr_final")
OF_SAMPLING = ("num_inference_steps", "guidance_scale")
OF_RECIPE = ("boundary", "seed", "workers")
NOTHING = "nothing"
"""In `start_from`: random weights, where the recipe would tune some."""


def changed(recipe: Recipe, changes: RecipeChanges) -> Recipe:
    """The recipe with every field that was filled in.

    Raises:
        UserError: the changes do not go together, or the recipe trains no such generator.
    """
    asked = changes.model_dump(exclude_none=True)
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    tree |= {name: asked[name] for name in OF_RECIPE if name in asked}
    tree["optimization"] |= {name: asked[name] for name in OF_OPTIMIZATION if name in asked}
    tree["sampling"] |= {name: asked[name] for name in OF_SAMPLING if name in asked}
    for role, job in tree["jobs"].items():
        job["steps"] = asked.get(f"{role}_steps", job["steps"])
        job["batch_size"] = asked.get("batch_size", job["batch_size"])
    if start := asked.get("start_from"):
        tree["init_from"] = None if start == NOTHING else {"source": start}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the recipe"
        raise UserError(f"The changes to recipe '{recipe.name}' do not hold: {where}: {first['msg']}.") from error
