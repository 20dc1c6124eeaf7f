"""What a training job refuses before its first step."""

import pytest

from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.train.work import check_rows
from tests.train.rows import random_rows


def contract(low: int, high: int) -> GeneratorContract:
    return GeneratorContract(
        role="structure" if low else "texture", low=low, high=high, schedule=tiny().schedule, autoencoder_hash="a",
        text_encoder_hashes=("t",), latent_scaling=1.0, spatial_factor=8, max_tokens=16, resolution=96, recipe="tiny",
        recipe_digest="d",
    )  # fmt: skip


@pytest.mark.parametrize(("least", "high"), [(500, 500), (999, 500), (1000, 1000)])
def test_a_row_that_no_timestep_of_the_interval_may_train_is_refused(least: int, high: int) -> None:
    rows = random_rows()
    rows.min_timestep_n[7] = least
    with pytest.raises(UserError, match=f"Row 007 may train timesteps from {least} on"):
        check_rows(rows, contract(high - 500, high))


def test_a_row_that_one_timestep_may_train_is_taken() -> None:
    rows = random_rows()
    rows.min_timestep_n[7] = 999
    check_rows(rows, contract(500, 1000))


def test_fewer_workers_than_none_or_more_than_all_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers must not be above workers, which is 1"):
        type(tiny()).model_validate(tiny().model_dump() | {"min_workers": 2})
    assert tiny().learning_digest() == tiny().model_copy(update={"workers": 4, "min_workers": 2}).learning_digest()
