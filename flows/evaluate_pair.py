"""Deployment `evaluate-pair`: measure two generators as a pair."""

from typing import Any

from prefect import flow

from flows.parameters import EvaluatePair
from flows.reporting import staged
from flows.stages import evaluate, stop_everything
from flows.train_generators import experts_of
from pangu.config import ROLES
from pangu.names import LATEST


@flow(name="evaluate-pair", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def evaluate_pair(settings: EvaluatePair) -> dict[str, Any]:
    """Assemble the pair and measure it by the evaluation protocol.

    Experts between the two that are not named are the latest of each that the recipe lists.
    """
    options = [*settings.evaluation.arguments, *settings.devices.arguments]
    recipe = settings.chosen_recipe
    middles = list(settings.middles) or [LATEST] * (len(experts_of(recipe)) - len(ROLES))
    measured = evaluate(
        settings.card, settings.structure, settings.texture, recipe, settings.encode_id, options, middles
    )
    return {"evaluate": measured}
