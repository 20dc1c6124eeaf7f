"""Going on with a run under another optimization or number of steps: what may differ, and the record of it in the run folder.

A run that skipped too many steps in a row goes on from its last good checkpoint, e.g. with a lower `lr_peak`; a finished run gets
more steps. Anything else that decides what is learnt makes another run.
"""

import json
import time
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from pangu.config import Frozen, Recipe
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json
from pangu.train.job import JOB_FILE, TrainJob, find_job, read_job

CONTINUED_FILE = "continued.json"


class Continuation(Frozen):
    """One act of going on with other settings."""

    step: int = Field(description="Of the checkpoint that it went on from")
    time_ms: int = Field(description="When, in milliseconds since 1970")
    before: str = Field(description="Learning digest of the recipe until then")
    after: str
    changed: dict[str, tuple[Any, Any]] = Field(description="Dotted name of each setting -> what it was, what it is")


Continuations = TypeAdapter(list[Continuation])


def continuations(run_folder: Path) -> list[Continuation]:
    """Every act in order; none of most runs."""
    try:
        return Continuations.validate_python(read_json(run_folder / CONTINUED_FILE))
    except FileNotFoundError:
        return []


def said(acts: list[Continuation]) -> str:
    """The acts for people, e.g. `from step 200 optimization.lr_peak 0.002 -> 0.0005`; "" if there were none."""
    return "; ".join(
        f"from step {act.step} " + ", ".join(f"{name} {was} -> {now}" for name, (was, now) in act.changed.items())
        for act in acts
    )


def differences(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """What decides what is learnt and is not the same in both: dotted name -> (before, after)."""
    ours, theirs = _flat(before.learning_fields()), _flat(after.learning_fields())
    names = sorted(ours.keys() | theirs.keys())
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def check_same_recipe(run_folder: Path, job: TrainJob) -> None:
    """Raises UserError if the run folder is of a run whose recipe has another learning digest."""
    known = read_job(run_folder)
    changed = differences(known.recipe, job.recipe) if known is not None else {}
    if changed:
        raise UserError(
            f"Run '{job.run_name}' has another {', '.join(changed)}; use another run name, or go on with it under this recipe by "
            f"`--continue-run`."
        )


def continued(home: Home, name: str, run_name: str | None, role: str, encode_id: str, recipe: Recipe) -> str:
    """`continue_run` as it is asked for by the name of a run, which is returned.

    Raises:
        UserError: there is no such run, it is of another role or has another name too, or what `continue_run` refuses.
    """
    known = find_job(home, name)
    if run_name not in (None, name):
        raise UserError(f"--continue-run names run '{name}' and --run-name '{run_name}'; leave out --run-name.")
    if known.role != role:
        raise UserError(f"Run '{name}' trains {known.role}, not {role}.")
    continue_run(known, encode_id, recipe)
    return name


def continue_run(known: TrainJob, encode_id: str, recipe: Recipe) -> list[Continuation]:
    """Make `recipe` that of the run `known`, which goes on from its newest checkpoint; returns all acts so far.

    Doing it again changes nothing. The outcome of a finished run is kept as `outcome-step-NNNNNN.json`.

    Raises:
        UserError: something else differs, there is no checkpoint, or it has all the steps already.
    """
    changed, acts = differences(known.recipe, recipe), continuations(known.run_folder)
    fixed = [name for name in changed if not _may_change(name)]
    if encode_id != known.encode_id:
        fixed.append("encode_id")
    if fixed:
        raise UserError(
            f"Run '{known.run_name}' can go on with another optimization or number of steps, but {', '.join(fixed)} would differ "
            f"too; use another run name."
        )
    from pangu.train.checkpoint import latest_checkpoint  # brings torch along

    found = latest_checkpoint(known.run_folder / "checkpoints")
    if found is None:
        raise UserError(f"Run '{known.run_name}' has no checkpoint to go on from; use another run name.")
    step, total = found[1].step, recipe.training(known.role).steps
    if total <= step:
        raise UserError(
            f"Run '{known.run_name}' has {step} steps behind it already; set jobs.{known.role}.steps to more than that."
        )
    if changed:
        digests = known.recipe.learning_digest(), recipe.learning_digest()
        acts.append(
            Continuation(
                step=step, time_ms=int(time.time() * 1000), before=digests[0], after=digests[1], changed=changed
            )
        )
        write_json(known.run_folder / CONTINUED_FILE, json.loads(Continuations.dump_json(acts)))
        write_json(known.run_folder / JOB_FILE, known.model_copy(update={"recipe": recipe}).model_dump(mode="json"))
    outcome = known.run_folder / "outcome.json"
    if outcome.is_file():
        outcome.rename(outcome.with_name(f"outcome-step-{step:06d}.json"))
    return acts


def _may_change(name: str) -> bool:
    """The means are kept one per decay, and the position in the data follows from the batch: both stay."""
    if name.startswith("jobs."):
        return name.endswith(".steps")
    return name.startswith("optimization.") and name != "optimization.ema_decays"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result
