"""Flow matching: the loss written by hand, a network that learns, resumes, and levels that are told in float32."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pangu.config import NoiseSchedule, Recipe
from pangu.contract import GeneratorContract, check_pair
from pangu.data.captions import Caption
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import TimeInterval, interval_of
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.evaluate.timestep_loss import losses
from pangu.models.denoisers import denoise
from pangu.models.schedulers import sampler
from pangu.pipelines.assemble import load_generator
from pangu.recipes import tiny
from pangu.storage import Home
from pangu.train.history import read_history
from pangu.train.job import TrainJob
from pangu.train.loop import Hooks, train_loop
from pangu.train.randomness import draw_batch
from pangu.train.setup import initial
from pangu.train.starting_weights import pin_initial
from pangu.train.step import loss_per_sample
from pangu.train.timestep_sampler import timestep_sampler
from pangu.train.worker import work
from pangu.train.world import World
from tests import subtests
from tests.small_dataset import NAME
from tests.train.rows import random_rows, smallest_recipe
from tests.train.test_loop import Killed, same

checks = subtests.Checks()

FLOW = NoiseSchedule(prediction_type="flow_prediction", shift=3.0)


def flow_recipe(steps: int = 6, **optimization: object) -> Recipe:
    recipe = smallest_recipe(**{"timestep_sampling": "logit_normal"} | optimization)
    jobs = {role: job.model_copy(update={"steps": steps}) for role, job in recipe.jobs.items()}
    return recipe.model_copy(update={"schedule": FLOW, "jobs": jobs})


def test_the_loss_is_the_one_that_is_written_by_hand() -> None:
    recipe, rows = flow_recipe(), random_rows()
    network = initial(recipe, rows, "structure").eval()
    timesteps = timestep_sampler(rows, TimeInterval(500, 1000), FLOW, recipe.optimization)
    batch = draw_batch(rows, range(8), 0, 3, 0, timesteps, recipe.optimization)
    assert ((batch.timestep_b >= 500) & (batch.timestep_b < 1000)).all()
    assert not batch.timestep_b.frac().eq(0).any(), "levels are continuous"
    found = loss_per_sample(network, batch, training_levels(FLOW)).detach()
    for at in range(8):
        t = float(batch.timestep_b[at]) / 1000
        noisy = (1 - t) * batch.latents_bchw[at] + t * batch.noise_bchw[at]
        added = {"text_embeds": batch.pooled_bp[at : at + 1], "time_ids": torch.zeros(1, 1)}
        predicted = network(
            noisy[None], 1000 * t, encoder_hidden_states=batch.tokens_bsc[at : at + 1], added_cond_kwargs=added
        ).sample[0]
        expected = (predicted - (batch.noise_bchw[at] - batch.latents_bchw[at])).square().mean()
        assert float(found[at]) == pytest.approx(expected.item(), rel=1e-5)


def one_picture(count: int = 8) -> EncodedRows:
    """Rows that all show the same: its flow can be learnt by a network that is hardly one."""
    picture = torch.linspace(-1, 1, 4 * 16).reshape(1, 4, 4, 4)
    return EncodedRows(**vars(random_rows(count)) | {"latents_nchw": picture.expand(count, -1, -1, -1).half()})


@subtests.parametrize("role", ["structure", "texture"])
def test_a_network_learns_the_flow(role: str, tmp_path: Path) -> None:
    """A network that says nothing has the power of noise and picture as its loss: 1 + 0.34."""
    lines: list[dict[str, float]] = []
    hooks = Hooks(metrics=lambda step, values: lines.append(values))
    recipe = flow_recipe(150, checkpoint_every=1000, log_every=25, lr_peak=1e-2)
    train_loop(role, recipe, one_picture(), "x", tmp_path, hooks=hooks)  # type: ignore[arg-type]
    assert lines[-1]["loss"] < 0.5, [line["loss"] for line in lines]
    low, high = (500, 1000) if role == "structure" else (0, 500)
    named = [name for name in lines[-1] if name.startswith("loss/t")]
    assert named
    assert all(low <= int(end) < high for name in named for end in name.removeprefix("loss/t").split("-"))


@checks
def a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    recipe, rows = flow_recipe(), random_rows(min_timestep=300)
    whole = train_loop("structure", recipe, rows, "x", tmp_path / "whole")

    def dies(folder: Path) -> None:
        if folder.name.endswith("3"):
            raise Killed

    with pytest.raises(Killed):
        train_loop("structure", recipe, rows, "x", tmp_path / "killed", hooks=Hooks(checkpoint=dies))
    again = train_loop("structure", recipe, rows, "x", tmp_path / "killed")
    assert again.resumed_from == 3
    assert same(whole.denoiser.state_dict(), again.denoiser.state_dict())


def test_a_whole_job_leaves_a_generator_that_says_what_it_predicts(small_home: Home) -> None:
    """From the dataset on, whose upscaled rows are limited: nothing on the way knows discrete levels alone."""
    recipe = tiny().model_copy(update={"schedule": FLOW})
    encode_id = encode(NAME, 0, recipe, small_home).encode_id
    folder = small_home.run("flow")
    job = TrainJob(
        role="structure", run_name="flow", encode_id=encode_id, recipe=recipe, encoded=small_home.encoded(NAME, encode_id),
        run_folder=folder,
    )  # fmt: skip
    manifest = EncodedManifest.load(job.encoded)
    pin_initial(folder, recipe, job.role, job.contract(manifest), manifest.encoders)
    work(job, World())
    network, contract = load_generator(folder / "generator")
    assert contract.schedule == FLOW
    assert math.isfinite(read_history(folder / "metrics.jsonl")[-1].metrics["loss"])
    shape = (2, network.config.in_channels, 8, 8)
    latents, noise, text = (
        torch.randn(shape),
        torch.randn(shape),
        (
            torch.zeros(2, 16, manifest.encoders.context_channels),
            torch.zeros(2, manifest.encoders.pooled_channels),
        ),
    )
    found = losses(
        lambda noisy, t, tokens, pooled: denoise(network, noisy, t, tokens, pooled, 0).detach(),
        latents, *text, torch.tensor([600.5, 1000.0]), noise, contract.schedule,
    )  # fmt: skip
    assert found.isfinite().all()


@subtests.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_timesteps_and_presets_reach_their_embeddings_in_float32(dtype: torch.dtype) -> None:
    """bf16 would make 999.25 a 1000, and preset 257 one of its neighbours."""
    rows, recipe = random_rows(), smallest_recipe()
    network = initial(recipe, rows, "structure").to(dtype)
    seen: dict[str, torch.Tensor] = {}
    for name in ("time_proj", "add_time_proj"):
        getattr(network, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    tokens, pooled = (tensor.to(dtype) for tensor in rows.captions([0, 1], [Caption()] * 2))
    noisy = rows.latents([0, 1]).to(dtype)
    for given in (torch.tensor([999.25, 0.125]), torch.tensor([999.25, 0.125], dtype=torch.float64)):
        assert denoise(network, noisy, given, tokens, pooled, 257).dtype == dtype
        assert seen["time_proj"].dtype == seen["add_time_proj"].dtype == torch.float32
        assert seen["time_proj"].tolist() == [999.25, 0.125]
        assert seen["add_time_proj"].tolist() == [257, 257]


def contract(role: str, schedule: NoiseSchedule) -> GeneratorContract:
    interval = interval_of(role, 500, 1000)  # type: ignore[arg-type]
    return GeneratorContract.model_validate(
        {
            "role": role, "low": interval.low, "high": interval.high, "schedule": schedule.model_dump(),
            "autoencoder_hash": "a", "text_encoder_hashes": ["t"], "latent_scaling": 1.0, "spatial_factor": 8,
            "max_tokens": 6, "resolution": 32, "recipe": "r", "recipe_digest": "d",
        }
    )  # fmt: skip


@checks
def a_contract_carries_the_flow_and_its_noisiest_expert_owns_pure_noise(tmp_path: Path) -> None:
    structure, texture = contract("structure", FLOW), contract("texture", FLOW)
    structure.save(tmp_path)
    assert GeneratorContract.load(tmp_path) == structure
    check_pair(structure, texture)
    assert 1000.0 in structure.interval
    assert str(structure.interval) == "[500, 1000]"
    assert 500.0 not in texture.interval
    with pytest.raises(UserError, match=r"Overlap in the pair: .*both cover \[353\.9, 500\)"):  # at equal log-SNR
        check_pair(structure, contract("texture", NoiseSchedule()))


@checks
def a_contract_of_before_there_were_flows_says_what_it_said() -> None:
    known = {
        "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": False,
    }  # fmt: skip
    schedule = NoiseSchedule.model_validate(known)
    assert schedule.model_dump() == known
    assert 1000 not in contract("structure", schedule).interval


@checks
def a_recipe_chooses_the_flow_and_what_it_cannot_mean_is_refused() -> None:
    fields = smallest_recipe().model_dump()
    fields["schedule"] = {"prediction_type": "flow_prediction", "shift": 3.0}
    fields["optimization"] |= {"timestep_sampling": "mode", "mode_scale": 0.8}
    recipe = Recipe.model_validate(fields)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert recipe.learning_digest() != smallest_recipe().learning_digest()
    with pytest.raises(ValidationError, match=r"only 5.6e-06 of the timesteps .* lie in \[0, 1\); move the boundary"):
        Recipe.model_validate(fields | {"boundary": 1, "schedule": fields["schedule"] | {"shift": 100.0}})
    with pytest.raises(ValidationError, match=r"schedule.shift belongs to flow matching"):
        Recipe.model_validate(fields | {"schedule": {"shift": 3.0}})
    drawn = sampler(recipe.schedule)
    assert (type(drawn).__name__, drawn.config.shift) == ("FlowMatchEulerDiscreteScheduler", 3.0)


test_flow = checks.test()
