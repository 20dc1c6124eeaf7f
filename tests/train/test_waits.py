"""Between two log lines the loop asks the device for nothing, so that a GPU never idles while the host prepares a step."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pangu.config import Execution, Recipe
from pangu.train.loop import Hooks, train_loop
from tests import subtests
from tests.train.rows import random_rows, smallest_recipe
from tests.waits import waits


@subtests.parametrize(
    "ask",
    [float, bool, torch.Tensor.tolist, torch.Tensor.item, lambda one: one.numpy(), torch.nonzero],
)
def test_what_counts_waits_sees_each_way_of_asking(ask: Callable[[torch.Tensor], Any]) -> None:
    one = torch.ones(())
    assert waits(lambda: ask(one)).total() > 0
    assert waits(lambda: (one + one).clamp(max=1)).total() == 0


def run(recipe: Recipe, folder: Path, log_every: int, steps: int) -> Counter[str]:
    """What a run of one log line and one checkpoint, both at its end, waits for. A thread of its own draws the batches."""
    quiet = {"log_every": log_every, "checkpoint_every": steps}
    recipe = recipe.model_copy(
        update={
            "jobs": {role: job.model_copy(update={"steps": steps}) for role, job in recipe.jobs.items()},
            "optimization": recipe.optimization.model_copy(update=quiet),
        }
    )
    lines: list[int] = []
    rows = random_rows()
    seen = waits(
        lambda: train_loop("structure", recipe, rows, "e", folder, hooks=Hooks(lambda step, _: lines.append(step)))
    )
    assert lines == [at for at in range(1, steps + 1) if at % log_every == 0 or at == steps]
    return seen


@subtests.parametrize(
    "execution",
    [
        Execution(prefetch=1),
        Execution(prefetch=1, accumulate=2, precision="bf16", gradient_checkpointing=True),
        Execution(prefetch=1, ema_device="host", moments="int8"),
        Execution(prefetch=1, ema_device="host", ema_every=2, moments="bf16"),
    ],
)
def test_steps_between_log_lines_wait_for_nothing(execution: Execution, tmp_path: Path) -> None:
    recipe = smallest_recipe(min_snr_gamma=5.0).model_copy(update={"execution": execution})
    few, many = (run(recipe, tmp_path / str(steps), 100, steps) for steps in (2, 7))
    assert few.total() > 0
    assert many == few
    each = run(recipe, tmp_path / "each", 1, 7)
    assert each["tolist"] == many["tolist"] + 6
