"""A ControlNet trains by the loop that trains every generator: the UNet stays as it is, and resumed equals uninterrupted."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from pydantic import ValidationError
from safetensors.torch import load_file

from pangu.config import InitialWeights, LoraConfig, Optimization, Recipe
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.encode.views import windows
from pangu.data.rows.load import load_rows
from pangu.errors import UserError
from pangu.models.controlnet import ControlledUNet, add_control
from pangu.recipes import edge_control
from pangu.storage import Home
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.continuing import continue_run
from pangu.train.job import TrainJob
from pangu.train.loop import train_loop
from pangu.train.randomness import draw_batch
from pangu.train.starting_weights import pin_initial, starting_network
from pangu.train.worker import work
from pangu.train.world import World
from tests import subtests
from tests.models.unets import stable_diffusion_unet
from tests.small_dataset import NAME
from tests.train.control import control_recipe, single_recipe
from tests.train.rows import plain_timesteps
from tests.train.test_loop import Hooks, Killed, same


def job_of(home: Home, recipe: Recipe, run_name: str) -> TrainJob:
    """The recipe's one job on the small dataset, its data encoded and its start pinned."""
    encode_id = encode(NAME, 0, recipe, home).encode_id
    job = TrainJob(
        role=recipe.roles[0],
        run_name=run_name,
        encode_id=encode_id,
        recipe=recipe,
        encoded=home.encoded(NAME, encode_id),
        run_folder=home.run(run_name),
    )
    manifest = EncodedManifest.load(job.encoded)
    pin_initial(job.run_folder, recipe, job.role, job.contract(manifest), manifest.encoders)
    return job


@pytest.fixture(scope="module")
def generator(small_home: Home) -> Path:
    """A single generator for all timesteps, trained by the platform."""
    job = job_of(small_home, single_recipe(), "single")
    work(job, World())
    return job.run_folder / "generator"


@pytest.fixture(scope="module")
def finished(small_home: Home, generator: Path) -> Path:
    """The run folder of a ControlNet on it."""
    job = job_of(small_home, control_recipe(generator), "control")
    work(job, World())
    return job.run_folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(ControlNetModel.from_pretrained(folder).state_dict())


def test_a_single_generator_owns_every_timestep(generator: Path) -> None:
    contract = GeneratorContract.load(generator)
    assert (contract.role, contract.low, contract.high) == ("single", 0, 1000)


def test_what_is_written_is_a_controlnet_that_has_learnt(finished: Path, generator: Path, small_home: Home) -> None:
    trained = state(finished / "generator")
    assert GeneratorContract.load(finished / "generator").role == "control"
    unet = UNet2DConditionModel.from_pretrained(generator)
    fresh = dict(add_control(unet, 8, 0).controlnet.state_dict())
    assert trained.keys() == fresh.keys()
    assert not same(trained, fresh)
    assert float(trained["controlnet_mid_block.weight"].abs().max()) > 0  # it began at zero


def test_only_the_controlnet_is_trained_and_kept(finished: Path) -> None:
    newest = max((finished / "checkpoints").glob("step-*"))
    assert all(name.startswith("controlnet.") for name in load_file(newest / "model.safetensors"))
    pinned = UNet2DConditionModel.from_pretrained(finished / "initial")
    assert sum(p.numel() for p in pinned.parameters()) > 0


def test_a_fresh_controlnet_changes_no_prediction() -> None:
    unet = stable_diffusion_unet()
    asked = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    before = unet(*asked, return_dict=False)[0]
    controlled = add_control(unet, 2, seed=0)
    assert torch.equal(controlled(*asked, control_bchw=torch.rand(2, 3, 16, 16))[0], before)
    assert not any(parameter.requires_grad for parameter in unet.parameters())


@subtests.parametrize("killed_after", [1, 3])
@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted(
    killed_after: int, small_home: Home, generator: Path, finished: Path
) -> None:
    job = job_of(small_home, control_recipe(generator), f"killed-{killed_after}")
    manifest = EncodedManifest.load(job.encoded)
    contract = job.contract(manifest)

    def stop(step: int, metrics: dict) -> None:
        if step == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train_loop(
            "control", job.recipe, load_rows(job.encoded, "control"), job.encode_id, job.run_folder / "checkpoints",
            hooks=Hooks(stop), contract=contract,
            denoiser=starting_network(job.run_folder, job.recipe, "control", contract, manifest.encoders),
        )  # fmt: skip
    assert work(job, World()).resumed_from == killed_after - 1
    assert same(state(job.run_folder / "generator"), state(finished / "generator"))
    steps = job.recipe.training("control").steps
    longer = job.model_copy(update={"recipe": control_recipe(generator, steps=steps + 1)})
    continue_run(job, job.encode_id, longer.recipe)
    assert work(longer, World()).resumed_from == steps
    assert not same(state(job.run_folder / "generator"), state(finished / "generator"))


def test_a_window_of_latents_comes_with_the_same_window_of_edges(small_home: Home, generator: Path) -> None:
    recipe = control_recipe(generator, crop=64)
    job = job_of(small_home, recipe, "windows")
    rows, manifest = load_rows(job.encoded, "control"), EncodedManifest.load(job.encoded)
    timesteps = plain_timesteps(rows, job.contract(manifest).interval)
    cut = windows(recipe.jobs["control"], 8)
    batch = draw_batch(rows, [0, 1, 2, 3], 0, 0, 0, timesteps, Optimization(), cut)
    whole, edges = rows.latents([0, 1, 2, 3]), rows.control([0, 1, 2, 3])
    assert batch.control_bchw is not None
    assert batch.control_bchw.shape == (4, 3, 64, 64)
    for one, shown, all_of_it, all_edges in zip(batch.latents_bchw, batch.control_bchw, whole, edges, strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(one, all_of_it[:, top : top + 8, left : left + 8])
        ]
        assert any(
            torch.equal(shown, all_edges[:, 8 * top : 8 * top + 64, 8 * left : 8 * left + 64]) for top, left in places
        )


def changed(**changes: object) -> dict:
    return edge_control().model_dump() | changes


@subtests.parametrize(
    ("changes", "sentence"),
    [
        ({"init_from": None}, "name it in init_from"),
        ({"lora": LoraConfig().model_dump()}, "leave out lora"),
        (
            {"jobs": {"control": {"resolution": 48, "steps": 1, "batch_size": 1}}},
            "must say what the ControlNet is shown",
        ),
    ],
)
def test_a_recipe_that_could_not_be_trained_is_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Recipe.model_validate(changed(**changes))


def test_half_of_a_pair_is_no_base_for_a_controlnet(small_home: Home, tmp_path: Path) -> None:
    recipe = control_recipe("embedded").model_copy(
        update={"init_from": InitialWeights(source="embedded", subfolder="structure")}
    )
    with pytest.raises(
        UserError, match=r"trained for t in \[500, 1000\), but a ControlNet needs a generator for all of"
    ):
        job_of(small_home, recipe, "half")


def test_latents_that_no_control_image_fits_are_refused() -> None:
    with pytest.raises(UserError, match=r"1, 2, 4 ... 8 pixels per latent, not of 16"):
        add_control(stable_diffusion_unet(), 16, 0)


def test_a_checkpoint_is_of_the_role_that_wrote_it(small_home: Home, generator: Path, finished: Path) -> None:
    rows = load_rows(job_of(small_home, control_recipe(generator), "control").encoded, "control")
    longer = control_recipe(generator, steps=9)
    with pytest.raises(UserError, match="The checkpoint is of recipe"):
        train_loop("control", longer, rows, rows_id(finished), finished / "checkpoints", denoiser=small_controlled())


def rows_id(run_folder: Path) -> str:
    found = latest_checkpoint(run_folder / "checkpoints")
    assert found is not None
    return found[1].encode_id


def small_controlled() -> ControlledUNet:
    return add_control(stable_diffusion_unet(), 8, 0)
