"""Deployment `distill-pair`: from a released pair to students of few steps, by the whole way of `retrain-pair`."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.overrides import changed
from flows.parameters import DistillPair
from flows.reporting import staged
from flows.retrain_pair import whole_way
from flows.stages import recipe_file, stop_everything
from flows.train_generators import MOST
from pangu.config import Recipe
from pangu.errors import UserError
from pangu.recipes import recipe as named
from pangu.recipes import student_of

DEFAULTS = DistillPair()


@flow(
    name="distill-pair",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST),
    on_cancellation=[stop_everything],
    on_crashed=[stop_everything],
)
@staged
def distill_pair(settings: DistillPair = DEFAULTS) -> dict[str, Any]:
    """Ingest, prepare, encode, distill all experts at the same time and each alone, evaluate, gate, release, deploy."""
    return whole_way(settings, recipe_file(students(settings)))


def students(settings: DistillPair) -> Recipe:
    """The recipe of the students that a form asks for.

    Raises:
        UserError: the changes do not go together, or name another start than the teacher.
    """
    if settings.changes.start_from is not None:
        raise UserError("A student starts from its teacher: name the pair in teacher, and leave start_from empty.")
    recipe = changed(named(settings.chosen_recipe), settings.all_changes)
    return student_of(recipe, settings.teacher, settings.student_steps)
