"""What asking for a training again finds: its finished run, or what is left of it."""

from pathlib import Path

import pytest

from pangu.data.encode.stage import encode
from pangu.errors import UserError
from pangu.storage import Home
from pangu.train import launch
from pangu.train.on_ray import waits_for_gpus
from pangu.train.worker import work
from pangu.train.world import World
from tests import nasty, subtests
from tests.small_dataset import NAME, small_dataset
from tests.train.control import single_recipe


def test_a_finished_run_whose_generator_is_gone_is_made_again_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process instead of Ray's worker; the home's name is any."""
    monkeypatch.setattr(launch, "run_on_ray", lambda job, quiet: work(job, World()))
    home, recipe = Home(tmp_path / nasty.NAME), single_recipe()
    encode_id = encode(NAME, small_dataset(home), recipe, home).encode_id

    def train() -> launch.TrainOutcome:
        return launch.train("single", NAME, encode_id, recipe, home)

    first = train()
    assert not first.already_done and train() == first.model_copy(update={"already_done": True})
    weights = Path(first.generator) / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for spoil in (weights.unlink, lambda: weights.write_bytes(whole[:-1])):
        spoil()
        assert train() == first and weights.read_bytes() == whole
    assert train().already_done


def test_a_loss_that_nobody_brings_is_refused_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_on_ray", lambda job, quiet: pytest.fail("a worker started"))
    home, recipe = Home(tmp_path), single_recipe()
    recipe = recipe.model_copy(update={"optimization": recipe.optimization.model_copy(update={"loss": "nobodys"})})
    encode_id = encode(NAME, small_dataset(home), recipe, home).encode_id
    with pytest.raises(UserError, match="There is no loss 'nobodys'"):
        launch.train("single", NAME, encode_id, recipe, home)


@subtests.parametrize(
    ("workers", "gpus", "waits"), [(4, 0, False), (4, 4, False), (4, 9, False), (4, 3, True), (1, 1, False)]
)
def test_a_cluster_with_too_few_gpus_is_waited_for_and_said(workers: int, gpus: int, waits: bool) -> None:
    sentence = waits_for_gpus(workers, gpus)
    assert bool(sentence) == waits
    assert not waits or f"waits for {workers} workers with a GPU each, and the cluster has {gpus} in all" in sentence
