"""Deployment `evaluate-pair`: measure two generators as a pair."""

from typing import Any

from prefect import flow

from flows.parameters import EvaluatePair
from flows.reporting import staged
from flows.stages import evaluate, stop_everything


@flow(name="evaluate-pair", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def evaluate_pair(settings: EvaluatePair) -> dict[str, Any]:
    """Assemble the pair and measure it by the evaluation protocol."""
    options = [*settings.evaluation.arguments, *settings.devices.arguments]
    measured = evaluate(
        settings.card, settings.structure, settings.texture, settings.chosen_recipe, settings.encode_id, options
    )
    return {"evaluate": measured}
