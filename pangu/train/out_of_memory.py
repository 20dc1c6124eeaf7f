"""What to change when a device has no room for a step: what the recipe leaves to try. `pangu plan` asks here too."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pangu.config import Execution, Recipe, Role
from pangu.errors import UserError

NOTHING_LEFT = "take more workers, a lower resolution, a smaller denoiser, LoRA, or a larger device"


@contextmanager
def one_sentence_if_full(role: Role, recipe: Recipe, workers: int) -> Iterator[None]:
    """Raises UserError in the place of torch's out-of-memory error, which another attempt would only meet again."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(no_room(role, recipe, workers, error)) from error


def no_room(role: Role, recipe: Recipe, workers: int, error: BaseException) -> str:
    """The sentence for a training step that ran out of memory: what was asked, and the first switch that takes less.

    error: whose first three sentences say how much was wanted and there.
    """
    share = recipe.training(role).batch_size // workers
    why = ", ".join(" ".join(str(error).split()).rstrip(".").split(". ")[:3])
    remedy = next((set_all(changes, share) for changes in remedies(recipe.execution_of(role), share)), NOTHING_LEFT)
    return f"The device has no room for a training step of {role} with {asked_for(recipe, role, workers)} ({why}); {remedy}."


def asked_for(recipe: Recipe, role: Role, workers: int) -> str:
    """How much of a batch goes through the network at once, e.g. "4 images of 1024 px at once"."""
    training = recipe.training(role)
    at_once = training.batch_size // workers // recipe.execution_of(role).accumulate
    return f"{at_once} image{'s' * (at_once != 1)} of {training.resolution} px at once"


def remedies(execution: Execution, share: int) -> list[dict[str, Any]]:
    """Switches of `execution` that take less memory of a worker with `share` images a step, what changes least first.

    Time, then rounding: recomputing, fewer images at once, bf16, means on the host, smaller moments.
    """
    parts = [number for number in range(execution.accumulate + 1, share + 1) if share % number == 0]
    moments = ("fp32", "bf16", "int8")
    smaller = moments[moments.index(execution.moments) + 1 :]
    asked = (
        [{"gradient_checkpointing": True}]
        + [{"accumulate": number} for number in parts]
        + [{"precision": "bf16"}, {"ema_device": "host"}]
        + [{"moments": form} for form in smaller]
    )
    return [changes for changes in asked if any(getattr(execution, name) != value for name, value in changes.items())]


def set_all(changes: Mapping[str, Any], share: int) -> str:
    """The advice to make these changes, e.g. "set execution.precision to bf16"."""
    told = [f"execution.{name} to {str(value).lower()}" for name, value in changes.items()]
    sentence = "set " + ", ".join(told[:-1]) + (" and " if told[:-1] else "") + told[-1]
    if "accumulate" in changes:
        sentence += f", which learns the same from {share // changes['accumulate']} at once"
    return sentence
