"""A device that is full: one sentence with what was asked, what was missing, and the switch that takes less."""

import pytest
import torch

from pangu.config import Execution, Recipe
from pangu.errors import UserError
from pangu.train.out_of_memory import one_sentence_if_full
from tests import subtests
from tests.train.rows import small_recipe

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.06 GiB is free."
)


def recipe(**execution: object) -> Recipe:
    return small_recipe(batch_size=12).model_copy(update={"execution": Execution(**execution)})


CHECKPOINTED = {"gradient_checkpointing": True}
SPARING = CHECKPOINTED | {"accumulate": 12, "precision": "bf16"}


@subtests.parametrize(
    ("execution", "workers", "at_once", "remedy"),
    [
        ({}, 1, "12 images", "set execution.gradient_checkpointing to true."),
        (CHECKPOINTED, 1, "12 images", "set execution.accumulate to 2, which learns the same from 6 at once."),
        (CHECKPOINTED | {"accumulate": 2}, 2, "3 images", "set execution.accumulate to 3, which"),
        (CHECKPOINTED | {"accumulate": 3}, 4, "1 image", "set execution.precision to bf16."),
        (SPARING, 1, "1 image", "set execution.ema_device to host."),
        (SPARING | {"ema_device": "host"}, 1, "1 image", "set execution.moments to bf16."),
        (SPARING | {"ema_device": "host", "moments": "bf16"}, 1, "1 image", "set execution.moments to int8."),
        (SPARING | {"ema_device": "host", "moments": "int8"}, 1, "1 image", "take more workers, a lower resolution"),
    ],
)
def test_the_sentence_names_what_is_left_to_try(execution: dict, workers: int, at_once: str, remedy: str) -> None:
    with (
        pytest.raises(UserError) as refused,
        one_sentence_if_full("structure", recipe(**execution), workers),
    ):
        raise torch.OutOfMemoryError(SAID)
    sentence = str(refused.value)
    assert f"a training step of structure with {at_once} of 96 px at once (CUDA out of memory, Tried to" in sentence
    assert "2.00 GiB, GPU 0 has a total capacity of 79.19 GiB of which 1.06 GiB is free)" in sentence
    assert remedy in sentence
    assert "\n" not in sentence
