"""When skipped steps end a run, and the sentence that says so. A step is skipped if its loss or gradient norm is not finite."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from pangu.config import Optimization, Role
from pangu.train.checkpoint import GO_ON, whole_checkpoints
from pangu.train.training_metrics import Taken

AT_THE_END = 2
"""Skipped steps in a row with which a run may not end: nothing has shown since that its weights are good."""


def most_skipped(optimization: Optimization, last: bool) -> int:
    """Skipped steps in a row that stop the run; `last`: at its last step."""
    return min(AT_THE_END, optimization.max_skipped_steps) if last else optimization.max_skipped_steps


def suspects(keys: Sequence[str], rows: Sequence[int], losses: Sequence[float]) -> str:
    """Up to four keys of this worker's `rows` whose own loss is not finite, or of all where only the gradient is not."""
    found = [row for row, loss in zip(rows, losses, strict=True) if not math.isfinite(loss)] or list(rows)
    return ", ".join(keys[row][:12] for row in found[:4]) + (" ..." if len(found) > 4 else "")


def stop(role: Role, taken: Taken, in_a_row: int, names: str, checkpoints: Path, sets_aside: bool) -> str:
    """The sentence that ends a run because of the step `taken`, the last of `in_a_row` that were skipped.

    A checkpoint of just before them is no good one, for its weights never gave a finite gradient; with `sets_aside` it becomes
    `suspicious-step-NNNNNN`, which nothing reads, in case that something other than its weights was to blame.
    """
    suspicious = taken.step + 1 - in_a_row
    good = next((state.step for _, state in whole_checkpoints(checkpoints) if state.step < suspicious), None)
    path = checkpoints / f"step-{suspicious:06d}"
    if sets_aside and path.is_dir():
        aside = path.with_name(f"suspicious-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    finite = math.isfinite(taken.loss)
    what = f"gradient norm of {role} is {taken.grad_norm}" if finite else f"loss of {role} is {taken.loss}"
    advice = (
        "begin again with a lower lr_peak" if good is None else f"the last good checkpoint is of step {good}: {GO_ON}"
    )
    skipped = "which was skipped" if in_a_row == 1 else f"skipped like all of the last {in_a_row} steps"
    return f"The {what} at step {taken.step} (rows {names}), {skipped}; if those rows are sound, {advice}."
