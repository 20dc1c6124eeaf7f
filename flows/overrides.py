"""A form's changes to a recipe: from the fields that a person filled in to the recipe that every stage of the run is given."""

from typing import Any

from pydantic import ValidationError

from flows.recipe_changes import CommonChanges
from pangu.config import ROLES, Recipe
from pangu.errors import UserError

PLACES: dict[str, tuple[str, ...]] = {
    "boundary": ("boundary",),
    "seed": ("seed",),
    "workers": ("workers",),
    "lr_peak": ("optimization", "lr_peak"),
    "lr_final": ("optimization", "lr_final"),
    "warmup_steps": ("optimization", "warmup_steps"),
    "zh_share": ("optimization", "zh_share"),
    "template_share": ("optimization", "template_share"),
    "keyword_share": ("optimization", "keyword_share"),
    "num_inference_steps": ("sampling", "num_inference_steps"),
    "guidance_scale": ("sampling", "guidance_scale"),
    "sample_every": ("watching", "sample_every"),
    "dataset_weight": ("mixture", "weight"),
    "autoencoder": ("autoencoder", "source"),
    "autoencoder_subfolder": ("autoencoder", "subfolder"),
    "start_from": ("init_from", "source"),
    "start_subfolder": ("init_from", "subfolder"),
    "new_latents": ("init_from", "new_latents"),
}
"""Field of a form -> where it stands in the recipe."""
OF_EVERY_JOB = ("steps", "resolution", "batch_size")
OF_ONE_JOB = {f"{role}_steps": role for role in ROLES}
LEADS = {"autoencoder_subfolder": "autoencoder", "start_subfolder": "start_from", "new_latents": "start_from"}
"""Fields that say something about another one, and mean nothing without it."""
NOTHING = "nothing"
"""In `start_from`: random weights, where the recipe would tune some."""


def changed(recipe: Recipe, changes: CommonChanges) -> Recipe:
    """The recipe with every field that was filled in.

    Raises:
        UserError: the changes do not go together, or the recipe trains no such generator.
    """
    asked = changes.model_dump(exclude_none=True, exclude_defaults=True)
    check_complete(recipe, asked)
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    for field in {PLACES[lead][0] for lead in LEADS.values() if lead in asked}:
        tree[field] = {}  # another source: subfolder and the rest were those of the old one
    for name, value in asked.items():
        put(tree, name, value)
    if asked.get("start_from") == NOTHING:
        tree["init_from"] = None
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the recipe"
        raise UserError(f"The changes to recipe '{recipe.name}' do not hold: {where}: {first['msg']}.") from error


def check_complete(recipe: Recipe, asked: dict[str, Any]) -> None:
    """Raises UserError if a field is filled in without the one that it belongs to, or a ControlNet lacks its generator."""
    for name, lead in LEADS.items():
        if name in asked and asked.get(lead, NOTHING) == NOTHING:
            raise UserError(f"The changes to recipe '{recipe.name}' fill in {name} without {lead}; fill in both.")
    if recipe.strategy == "control" and "start_from" not in asked:
        raise UserError(
            f"Recipe '{recipe.name}' trains a ControlNet on a given generator; name its folder in start_from."
        )


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Write one field of a form to where it stands in a recipe's tree."""
    if name in OF_EVERY_JOB:
        for job in tree["jobs"].values():
            job[name] = value
    elif name in OF_ONE_JOB:
        tree["jobs"][OF_ONE_JOB[name]]["steps"] = value
    elif name == "ema_decay":
        tree["optimization"]["ema_decays"] = [value, *tree["optimization"]["ema_decays"][1:]]
    else:
        *path, last = PLACES[name]
        for part in path:
            tree = tree.setdefault(part, {})  # what says nothing, such as no mixture, is left out of a tree
        tree[last] = value
