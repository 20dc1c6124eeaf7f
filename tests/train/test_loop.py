"""Training: exact resume from every step, torn checkpoints, refusals, and a golden loss curve."""

import shutil
from pathlib import Path

import pytest
import torch

from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.sampler import DeterministicSampler
from pangu.train.setup import initial
from pangu.train.world import World
from tests import subtests
from tests.train.rows import random_rows, small_recipe

checks = subtests.Checks()


class Killed(Exception):
    """Stands for the process ending here: nothing after it runs."""


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def averaged(trained: Trained) -> dict[str, torch.Tensor]:
    """Weights and running means, of which the second become the generator."""
    with trained.ema.applied():
        means = {f"mean.{name}": tensor for name, tensor in weights(trained.denoiser).items()}
    return weights(trained.denoiser) | means


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, averaged(train_loop("structure", small_recipe(), random_rows(), "e", folder))


@pytest.fixture
def trained(whole) -> Path:
    """The folder of a run that nothing interrupted; not to be written to."""
    return whole[0]


@pytest.fixture
def uninterrupted(whole) -> dict[str, torch.Tensor]:
    return whole[1]


@subtests.parametrize("killed_after", range(1, 6))
def test_killed_after_any_step_and_resumed_equals_uninterrupted(killed_after, uninterrupted, tmp_path) -> None:
    def stop(step: int, metrics: dict) -> None:
        if step == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train_loop("structure", small_recipe(), random_rows(), "e", tmp_path, hooks=Hooks(stop))
    resumed = train_loop("structure", small_recipe(), random_rows(), "e", tmp_path)
    assert resumed.resumed_from == killed_after - 1
    assert same(averaged(resumed), uninterrupted)


def test_the_switches_of_a_job_replace_those_of_the_recipe(uninterrupted, tmp_path) -> None:
    """Sums in parts differ in their last bits, so the two ways can be told apart; and either may go on with the other's run."""
    whole, parts = small_recipe(), small_recipe().execution.model_copy(update={"accumulate": 2})
    job = whole.structure.model_copy(update={"execution": parts})
    of_job = whole.model_copy(update={"jobs": whole.jobs | {"structure": job}})
    of_recipe = whole.model_copy(update={"execution": parts})
    found = [
        averaged(train_loop("structure", recipe, random_rows(), "e", tmp_path / name))
        for name, recipe in (("job", of_job), ("recipe", of_recipe))
    ]
    assert same(*found) and not same(found[0], uninterrupted)
    assert train_loop("structure", whole, random_rows(), "e", tmp_path / "job").resumed_from == whole.structure.steps


@subtests.parametrize("damage", ["truncate", "flip", "delete", "no state"])
def test_a_torn_checkpoint_is_passed_over(damage, trained, uninterrupted, tmp_path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "step-000006"
    victim = newest / ("state.json" if damage == "no state" else "optimizer.safetensors")
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "flip":
        victim.write_bytes(data)
    elif damage == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    else:
        victim.unlink()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1].step == 5
    assert same(averaged(train_loop("structure", small_recipe(), random_rows(), "e", tmp_path)), uninterrupted)


@checks
def only_the_last_two_checkpoints_are_kept(trained) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["step-000005", "step-000006"]


@subtests.parametrize(
    ("role", "encode_id", "recipe", "sentence"),
    [
        ("texture", "e", small_recipe(), "role structure, but this run is of texture"),
        ("structure", "other", small_recipe(), "encoded dataset e, but this run is of other"),
        ("structure", "e", small_recipe(steps=9), "is of recipe"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(role, encode_id, recipe, sentence, trained) -> None:
    with pytest.raises(UserError, match=sentence):
        train_loop(role, recipe, random_rows(), encode_id, trained)


@checks
def a_loss_that_is_not_finite_stops_the_run_and_names_step_and_rows(tmp_path) -> None:
    rows = random_rows()
    train_loop("structure", small_recipe(steps=2), rows, "e", tmp_path)
    shutil.copytree(tmp_path / "step-000002", tmp_path / "good")
    rows.latents_nchw[:] = float("nan")
    with pytest.raises(UserError, match=r"loss of structure is nan at step 1 \(rows \d+"):
        train_loop("structure", small_recipe(steps=2), rows, "e", tmp_path / "other")
    assert latest_checkpoint(tmp_path / "other") is None
    assert latest_checkpoint(tmp_path)[1].step == 2


@checks
def a_batch_that_workers_cannot_share_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="batch_size 4 of texture cannot be shared by 5 workers"):
        train_loop("texture", small_recipe(), random_rows(), "e", tmp_path, World(0, 5))


@checks
def learning_lowers_the_loss(tmp_path) -> None:
    losses: list[float] = []
    recipe = small_recipe(steps=60, checkpoint_every=1000, log_every=1, lr_peak=3e-3)
    train_loop("structure", recipe, random_rows(), "e", tmp_path, hooks=Hooks(lambda _, m: losses.append(m["loss"])))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@checks
def both_roles_start_from_the_same_weights() -> None:
    first, second = (weights(initial(tiny(), random_rows(), "structure")) for _ in range(2))
    assert same(first, second)


GOLDEN = {
    "structure": [1.24645, 1.08776, 1.20801, 1.08262, 1.08007, 1.13434, 1.02877, 1.27497],
    "texture": [1.35528, 1.12429, 1.1137, 1.15674, 1.29326, 0.93481, 1.05441, 1.13286],
}


@subtests.parametrize("role", GOLDEN)
def test_a_refactoring_does_not_move_the_loss_curve(role, tmp_path) -> None:
    """Whoever means to change what is learnt changes these digits too; processors differ in the last ones.

    Of rows in the order of before it was computed, which runs of then keep.
    """
    losses: list[float] = []
    recipe = small_recipe(steps=8, checkpoint_every=100)
    windows = {0: (2, 2)} if role == "texture" else None
    hooks = Hooks(lambda _, metrics: losses.append(metrics["loss"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pangu.train.loop.DeterministicSampler", lambda *told: DeterministicSampler(*told[:4], "shuffled")
        )
        train_loop(role, recipe, random_rows(), "e", tmp_path, hooks=hooks, windows=windows)
    assert losses == pytest.approx(GOLDEN[role], abs=2e-4)


test_loop = checks.test()
