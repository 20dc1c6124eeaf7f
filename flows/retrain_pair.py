"""Deployment `retrain-pair`: the whole way from a card to a served pair.

One flow run with one task per stage, rather than nested flow runs: the dashboard then shows the whole way as one graph
with both training jobs side by side, and cancelling that one run cancels everything.
"""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dataset_report import show_dropped
from flows.gate import pass_gate
from flows.mixing import with_further
from flows.pair_matrix import compare_halves
from flows.parameters import RetrainPair
from flows.release_pair import release_and_deploy
from flows.release_report import show_links, show_samples
from flows.reporting import best_effort, staged
from flows.run_names import call_run
from flows.stages import encode, evaluate, gate, ingest, prepare, recipe_of, result_file, stop_everything
from flows.train_generators import MOST, train_all

DEFAULTS = RetrainPair()


@flow(
    name="retrain-pair",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST),
    on_cancellation=[stop_everything],
    on_crashed=[stop_everything],
)
@staged
def retrain_pair(settings: RetrainPair = DEFAULTS) -> dict[str, Any]:
    """Ingest, prepare, encode, train all generators at the same time, evaluate, gate, release, deploy.

    A stage whose input has not changed says that it is already done. A pair that the gate stops is not released.
    """
    return whole_way(settings, recipe_of(settings.chosen_recipe, settings.all_changes))


def whole_way(settings: RetrainPair, recipe: str) -> dict[str, Any]:
    """The stages, with what they are given as `--recipe`."""
    card = settings.card
    ingested = ingest(card, every_node=settings.every_node)
    prepared = prepare(card, ingested["ingest_id"], settings.preparing.arguments)
    show_dropped(prepared)
    best_effort(call_run)(f"{settings.deed} v{prepared['version']}", before=settings.deed)
    encoded = encode(card, prepared["version"], recipe, settings.devices.arguments)
    recipe = with_further(recipe, settings.further, settings.devices.arguments)
    trained = train_all(card, encoded["encode_id"], recipe)
    structure, *middles, texture = (one["generator"] for one in trained.values())
    measured, options = str(result_file("evaluate")), settings.evaluation
    drawing = [*options.arguments, *settings.devices.arguments]
    evaluated = evaluate(card, structure, texture, recipe, encoded["encode_id"], drawing, middles)
    decided = gate(card, measured, recipe, encoded["encode_id"], options.judges)
    show_samples(evaluated, decided)
    if options.matrix:
        compare_halves(decided, card, structure, texture, recipe, encoded["encode_id"], drawing, middles)
    pass_gate(decided, settings.approval)
    served = release_and_deploy(evaluated["pair"], structure, texture, measured, serve=settings.deploy, middles=middles)
    show_links(served)
    stages = {"ingest": ingested, "prepare": prepared, "encode": encoded, **trained}
    return {**stages, "evaluate": evaluated, "gate": decided, **served}
