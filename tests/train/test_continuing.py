"""Going on with a run under another optimization or number of steps: what is kept, recorded and refused."""

import math
from pathlib import Path

import pytest

from pangu.config import Recipe
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.continuing import check_same_recipe, continuations, continued, said
from pangu.train.job import TrainJob, describe_run, find_job
from pangu.train.loop import Trained, train_loop
from pangu.train.setup import initial
from tests import subtests
from tests.train.rows import order_of_before, random_rows, smallest_recipe
from tests.train.test_loop import averaged, same

NAME = "structure-run"


def job_of(home: Home, recipe: Recipe) -> TrainJob:
    return TrainJob(
        role="structure", run_name=NAME, encode_id="e", recipe=recipe, encoded=home.root, run_folder=home.run(NAME)
    )


def train(home: Home, recipe: Recipe) -> Trained:
    """What a worker does with the job, on a network whose first convolution's gradient overflows above 1."""
    job, rows, network = job_of(home, recipe), random_rows(), initial(recipe, random_rows(), "structure")
    network.conv_in.weight.register_hook(lambda grad: grad * math.inf if float(grad.abs().max()) > 1 else grad)
    check_same_recipe(job.run_folder, job)
    describe_run(job, rows)
    earlier = {act.before for act in continuations(job.run_folder)}
    trained = train_loop(
        "structure", recipe, rows, "e", job.run_folder / "checkpoints", denoiser=network, continues=earlier
    )
    write_json(job.run_folder / "outcome.json", {"steps": trained.steps})
    return trained


def test_a_finished_run_with_more_steps_ends_where_one_with_as_many_steps_ends(tmp_path: Path) -> None:
    home, whole = Home(tmp_path / "home"), Home(tmp_path / "whole")
    short, long = (smallest_recipe(steps=steps, lr_schedule="constant") for steps in (3, 6))
    train(home, short)
    with pytest.raises(UserError, match=r"has another jobs.structure.steps, .*by `--continue-run`"):
        train(home, long)
    for _ in range(2):  # asked for again, it is the same act
        assert continued(home, NAME, None, "structure", "e", long) == NAME
    assert read_json(home.run(NAME) / "outcome-step-000003.json")["steps"] == 3
    trained = train(home, long)
    assert (trained.resumed_from, trained.steps) == (3, 6)
    assert same(averaged(trained), averaged(train(whole, long)))
    (act,) = continuations(home.run(NAME))
    assert (act.step, act.changed["jobs.structure.steps"]) == (3, (3, 6))
    assert (act.before, act.after) == (short.learning_digest(), long.learning_digest())


def test_a_stopped_run_goes_on_from_its_last_good_checkpoint_with_a_lower_rate(tmp_path: Path) -> None:
    home = Home(tmp_path)
    steep = smallest_recipe(steps=6, lr_schedule="constant", lr_peak=10.0, warmup_steps=12, max_skipped_steps=2)
    last_good = (
        r"gradient norm of structure is \w+ at step 3 .* the last good checkpoint is of step 1: go on from there"
    )
    with pytest.raises(UserError, match=last_good), order_of_before():
        train(home, steep)
    good = latest_checkpoint(home.run(NAME) / "checkpoints")
    assert good is not None
    gentle = steep.model_copy(update={"optimization": steep.optimization.model_copy(update={"lr_peak": 1e-5})})
    continued(home, NAME, NAME, "structure", "e", gentle)
    assert said(continuations(home.run(NAME))) == f"from step {good[1].step} optimization.lr_peak 10.0 -> 1e-05"
    assert find_job(home, NAME).recipe == gentle
    trained = train(home, gentle)
    assert (trained.resumed_from, trained.skipped_steps) == (good[1].step, 0)
    with pytest.raises(UserError, match=r"has another optimization.lr_peak"):
        train(home, steep)


@subtests.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 7}, "but seed would differ"),
        ({"batch_size": 2}, "but jobs.structure.batch_size, jobs.texture.batch_size would differ"),
        ({"ema_decays": (0.9,)}, "but optimization.ema_decays would differ"),
        ({"lr_peak": 1e-4}, "has 3 steps behind it already; set jobs.structure.steps to more"),
        ({"steps": 2}, "has 3 steps behind it already"),
        ({"encode_id": "other"}, "but encode_id would differ"),
        ({"role": "texture"}, f"Run '{NAME}' trains structure, not texture"),
        ({"run_name": "b"}, "leave out --run-name"),
        ({"name": "none"}, f"There is no run 'none' .*known runs are {NAME}"),
    ],
    ids=str,
)
def test_whatever_else_would_make_another_run_is_refused_and_changes_nothing(
    changes: dict, sentence: str, finished: Home
) -> None:
    asked = {"name": NAME, "run_name": None, "role": "structure", "encode_id": "e"}
    recipe = smallest_recipe(**{"steps": 3, **{key: changes[key] for key in changes.keys() - asked.keys() - {"seed"}}})
    recipe = recipe.model_copy(update={"seed": changes.get("seed", recipe.seed)})
    asked |= {key: value for key, value in changes.items() if key in asked}
    before = {path: path.read_bytes() for path in finished.run(NAME).iterdir() if path.is_file()}
    with pytest.raises(UserError, match=sentence):
        continued(finished, recipe=recipe, **asked)
    assert {path: path.read_bytes() for path in finished.run(NAME).iterdir() if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    train(home, smallest_recipe(steps=3))
    return home
