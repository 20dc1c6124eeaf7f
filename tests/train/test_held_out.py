"""The loss on held-out rows while a training runs: what it says, and that training does not notice."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pangu.config import Recipe
from pangu.data.captions import Caption
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.errors import UserError
from pangu.evaluate.timestep_loss import common_noise, spread
from pangu.models.denoisers import denoise, load_denoiser
from pangu.recipes import tiny
from pangu.storage import Home
from pangu.train.history import read_history
from pangu.train.job import TrainJob
from pangu.train.starting_weights import pin_initial
from pangu.train.worker import work
from pangu.train.world import World
from tests import subtests
from tests.small_dataset import NAME, commit_rows, row


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Eight rows to train on, three held out, one of them upscaled."""
    home, drawings = Home(tmp_path_factory.mktemp("home")), selection(12)
    rows = [row(one, index % 4 == 1) for index, one in enumerate(drawings[:8])]
    commit_rows(home, rows + [row(one, index == 0, split="held_out") for index, one in enumerate(drawings[8:11])])
    return home


def job_of(home: Home, run_name: str, role: str = "structure", **watching: int) -> TrainJob:
    recipe = tiny().model_copy(
        update={"watching": tiny().watching.model_copy(update={"timestep_buckets": 2} | watching)}
    )
    encode_id = encode(NAME, 0, recipe, home).encode_id
    job = TrainJob(
        role=role, run_name=run_name, encode_id=encode_id, recipe=recipe, encoded=home.encoded(NAME, encode_id),
        run_folder=home.run(run_name),
    )  # fmt: skip
    manifest = EncodedManifest.load(job.encoded)
    pin_initial(job.run_folder, recipe, job.role, job.contract(manifest), manifest.encoders)
    return job


@subtests.parametrize("role", ["structure", "texture"])
def test_it_is_that_of_the_exported_generator_on_rows_that_no_step_saw(home: Home, role: str) -> None:
    job = job_of(home, f"measured-{role}", role, held_out_every=2)
    work(job, World())
    lines = read_history(job.run_folder / "metrics.jsonl")
    assert ["held_out_loss" in line.metrics for line in lines] == [False, True, False, True]
    rows = load_rows(job.encoded, job.role, job.recipe, split="held_out")
    assert set(rows.keys).isdisjoint(load_rows(job.encoded, job.role, job.recipe).keys)
    low = 500 if role == "structure" else 0
    whole = [index for index in range(len(rows)) if int(rows.min_timestep_n[index]) <= low]
    assert len(whole) == (3 if role == "structure" else 2)
    side = 12 if role == "structure" else 8
    cut = (12 - side) // 2
    latents = rows.latents(whole).float()[:, :, cut : cut + side, cut : cut + side]
    tokens, pooled = (tensor.float() for tensor in rows.captions(whole, [Caption(at % 2) for at in range(len(whole))]))
    network = load_denoiser(job.run_folder / "generator").eval()
    scheduled = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bars, losses = (1 - scheduled).cumprod(0), []
    for first in (low, low + 250):
        part = type(job.contract(EncodedManifest.load(job.encoded)).interval)(first, first + 250)
        timesteps, noise = spread(part, len(whole)), common_noise(latents.shape, job.recipe.seed, first)
        signal, sigma = (
            value.sqrt()[:, None, None, None] for value in (alpha_bars[timesteps], 1 - alpha_bars[timesteps])
        )
        with torch.no_grad():
            preset = int(rows.preset_n[whole[0]])
            found = denoise(network, signal * latents + sigma * noise, timesteps, tokens, pooled, preset)
        losses.append(float((found - (signal * noise - sigma * latents)).square().mean()))
        assert lines[-1].metrics[f"held_out_loss/t{first}-{first + 249}"] == pytest.approx(losses[-1], rel=1e-4)
    assert lines[-1].metrics["held_out_loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_training_does_not_notice(home: Home) -> None:
    measured, plain = job_of(home, "with", held_out_every=1), job_of(home, "without")
    assert measured.recipe.learning_digest() == plain.recipe.learning_digest()
    weights = []
    for job in (measured, plain):
        work(job, World())
        weights.append(load_file(next((job.run_folder / "generator").glob("*.safetensors"))))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_what_holds_nothing_out_is_refused_before_the_first_step(tmp_path: Path) -> None:
    home = Home(tmp_path)
    commit_rows(home, [row(one, False) for one in selection(4)])
    job = job_of(home, "nothing", held_out_every=2)
    with pytest.raises(UserError, match="has no held-out rows for the structure generator"):
        work(job, World())
    assert not (job.run_folder / "checkpoints").exists()


def test_a_strategy_that_sees_more_than_text_is_refused() -> None:
    fields = tiny().model_dump()
    stages = ("cascade_base", "cascade_middle", "cascade_final")
    fields |= {"strategy": "cascaded", "jobs": dict.fromkeys(stages, fields["jobs"]["structure"])}
    assert Recipe.model_validate(fields)
    fields["watching"] = {"held_out_every": 2}
    with pytest.raises(ValidationError, match="leave it out for cascaded"):
        Recipe.model_validate(fields)
