"""What to change when a device has no room for a step: what the recipe leaves to try."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pangu.config import Recipe, Role
from pangu.errors import UserError


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
    training, execution = recipe.training(role), recipe.execution
    share = training.batch_size // workers
    at_once = share // execution.accumulate
    asked = f"{at_once} image{'s' * (at_once != 1)} of {training.resolution} px at once"
    why = ", ".join(" ".join(str(error).split()).rstrip(".").split(". ")[:3])
    return (
        f"The device has no room for a training step of {role} with {asked} ({why}); {_remedy(recipe, share, workers)}."
    )


def _remedy(recipe: Recipe, share: int, workers: int) -> str:
    execution = recipe.execution
    if not execution.gradient_checkpointing:
        return "set execution.gradient_checkpointing to true"
    parts = next((n for n in range(execution.accumulate + 1, share + 1) if share % n == 0), None)
    if parts is not None:
        return f"set execution.accumulate to {parts}, which learns the same from {share // parts} at once"
    if execution.precision == "fp32":
        return "set execution.precision to bf16"
    return f"take more than {workers} worker{'s' * (workers != 1)}, a lower resolution, LoRA, or a larger device"
