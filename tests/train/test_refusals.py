"""What a training job refuses before its first step."""

import json
from pathlib import Path

import pytest

from pangu.config import Optimization
from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.models.schedulers import check_usable
from pangu.recipes import recipe, tiny
from pangu.train.worker import check_rows
from tests import subtests
from tests.train.rows import random_rows

checks = subtests.Checks()


def contract(low: int, high: int) -> GeneratorContract:
    return GeneratorContract(
        role="structure" if low else "texture", low=low, high=high, schedule=tiny().schedule, autoencoder_hash="a",
        text_encoder_hashes=("t",), latent_scaling=1.0, spatial_factor=8, max_tokens=16, resolution=96, recipe="tiny",
        recipe_digest="d",
    )  # fmt: skip


@subtests.parametrize(("least", "high"), [(500, 500), (999, 500), (1000, 1000)])
def test_a_row_that_no_timestep_of_the_interval_may_train_is_refused(least: int, high: int) -> None:
    rows = random_rows()
    rows.min_timestep_n[7] = least
    with pytest.raises(UserError, match=f"Row 007 may train timesteps from {least} on"):
        check_rows(rows, contract(high - 500, high))


@checks
def a_row_that_one_timestep_may_train_is_taken() -> None:
    rows = random_rows()
    rows.min_timestep_n[7] = 999
    check_rows(rows, contract(500, 1000))


@checks
def fewer_workers_than_none_or_more_than_all_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers must not be above workers, which is 1"):
        type(tiny()).model_validate(tiny().model_dump() | {"min_workers": 2})
    assert tiny().learning_digest() == tiny().model_copy(update={"workers": 4, "min_workers": 2}).learning_digest()


@subtests.parametrize(
    ("changes", "sentence"),
    [
        ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "set prediction_type to v_prediction"),
        ({"beta_schedule": "linear", "beta_start": 1e-9}, "adds 1e-09 of noise at one of its timesteps"),
        ({"beta_schedule": "linear", "beta_end": 0.9}, "leaves alpha_bar = .* at the last timestep"),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 10**5}, "at one of its timesteps"),
    ],
)
def test_noise_levels_that_cannot_be_learnt_are_refused_when_the_recipe_is_read(
    changes: dict, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.json"
    data = tiny().model_dump(mode="json")
    path.write_text(json.dumps(data | {"schedule": data["schedule"] | changes}))
    with pytest.raises(UserError, match=f"holds no recipe: the whole: Value error, schedule.*{sentence}"):
        recipe(str(path))
    with pytest.raises(UserError, match=f"The generators cannot be used: schedule.*{sentence}"):
        check_usable(tiny().schedule.model_copy(update=changes))


@subtests.parametrize("betas", [(1.0, 0.99), (0.9, 1.0), (-0.1, 0.9)])
def test_moments_that_adam_cannot_keep_are_refused_when_the_recipe_is_read(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="betas"):
        Optimization(betas=betas)


@checks
def a_limit_on_skipped_steps_leaves_digests_as_they_were_and_is_another_way_to_run_the_same() -> None:
    more = tiny().model_copy(update={"optimization": tiny().optimization.model_copy(update={"max_skipped_steps": 9})})
    assert "max_skipped_steps" not in tiny().model_dump_json()
    assert tiny().learning_digest() == "6c59f8e43eb7c3f4"
    assert more.digest() != tiny().digest()
    assert more.learning_digest() == tiny().learning_digest()


test_refusals = checks.test()
