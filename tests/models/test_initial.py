"""What a generator starts from: the right weights, and no weights that mean something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pangu.config import InitialWeights, NoiseSchedule, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser, denoise
from pangu.models.init_weights import initial_denoiser
from pangu.recipes import tiny
from tests import subtests
from tests.models.unets import sdxl_unet, stable_diffusion_unet, write_pipeline

checks = subtests.Checks()

CHANNELS = {"latent_channels": 4, "context": 24, "pooled": 12}


def contract(role: Role, **changes: Any) -> GeneratorContract:
    low, high = {"structure": (500, 1000), "texture": (0, 500)}.get(role, (0, 1000))
    values: dict[str, Any] = {
        "role": role, "low": low, "high": high, "schedule": NoiseSchedule(), "autoencoder_hash": "a1",
        "text_encoder_hashes": ("t1",), "latent_scaling": 1.0, "spatial_factor": 8, "max_tokens": 16, "resolution": 96,
        "recipe": "tiny", "recipe_digest": "r1",
    }  # fmt: skip
    return GeneratorContract(**(values | changes))


def starting(source: str | Path, role: Role = "structure", subfolder: str | None = None, **others: Any) -> Any:
    """The network that `role` starts from."""
    start = InitialWeights(source=str(source), subfolder=subfolder)
    recipe = tiny().model_copy(update={"schedule": NoiseSchedule(), "init_from": start})
    options = CHANNELS | {"contract_of_run": contract(role)} | others
    return initial_denoiser(recipe, role, **options)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def write_generator(folder: Path, role: Role, seed: int, **changes: Any) -> UNet2DConditionModel:
    unet = stable_diffusion_unet(seed)
    unet.save_pretrained(folder)
    contract(role, **changes).save(folder)
    return unet


def write_pair(folder: Path) -> dict[Role, UNet2DConditionModel]:
    """As much of a pair folder as its two networks."""
    halves: dict[Role, UNet2DConditionModel] = {
        "structure": stable_diffusion_unet(1),
        "texture": stable_diffusion_unet(2),
    }
    for role, unet in halves.items():
        unet.save_pretrained(folder / role)
    contracts = {role: contract(role).model_dump(mode="json") for role in halves}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PanGuDrawPipeline", "contracts": contracts}))
    return halves


@checks
def without_init_from_the_seed_decides_and_all_roles_are_equal() -> None:
    recipe: Recipe = tiny()
    before = torch.get_rng_state()
    networks = [initial_denoiser(recipe, role, **CHANNELS) for role in ("structure", "texture", "boost_low")]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(recipe.seed)
    expected = build_denoiser(recipe.denoiser, **CHANNELS)
    assert all(same(network, expected) for network in networks)
    other = initial_denoiser(recipe.model_copy(update={"seed": 1}), "structure", **CHANNELS)
    assert not same(other, expected)


@checks
def later_stages_of_a_cascade_take_the_lower_image() -> None:
    assert initial_denoiser(tiny(), "cascade_base", **CHANNELS).config.in_channels == 4
    assert initial_denoiser(tiny(), "cascade_final", **CHANNELS).config.in_channels == 8


@checks
def a_pair_gives_each_role_its_own_half(tmp_path) -> None:
    halves = write_pair(tmp_path)
    for role, unet in halves.items():
        assert same(starting(tmp_path, role), unet)
        assert same(starting(tmp_path / role, role), unet), "named inside the pair folder"
    assert same(starting(tmp_path, "texture", subfolder="structure"), halves["structure"]), "a common start"


@checks
def one_generator_starts_both_roles_whatever_its_interval(tmp_path) -> None:
    unet = write_generator(tmp_path, "boost_low", seed=3)
    assert same(starting(tmp_path, "structure"), unet)
    assert same(starting(tmp_path, "texture"), unet)


@subtests.parametrize("make", [stable_diffusion_unet, sdxl_unet])
def test_a_diffusers_pipeline_decides_the_architecture_and_predicts_the_same(make, tmp_path) -> None:
    unet = make(seed=4)
    write_pipeline(tmp_path, unet)
    loaded = starting(tmp_path).eval()
    assert same(loaded, unet)
    batch = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 24), torch.randn(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(denoise(loaded, *batch, 0), denoise(unet, *batch, 0))
    assert same(starting(tmp_path / "unet"), unet)
    assert same(starting(tmp_path, subfolder="unet"), unet)


@checks
def a_registered_pair_comes_from_the_resolver(tmp_path) -> None:
    halves = write_pair(tmp_path)
    places = {"models:/pangu-pair@champion": tmp_path}
    assert same(starting("models:/pangu-pair@champion", "texture", resolve=places.__getitem__), halves["texture"])
    with pytest.raises(UserError, match="is in the model registry; fetch it first"):
        starting("models:/pangu-pair@champion")


@torch.no_grad()
def test_widening_for_a_cascade_changes_no_prediction(tmp_path) -> None:
    unet = stable_diffusion_unet(5)
    unet.save_pretrained(tmp_path)
    widened = starting(tmp_path, "cascade_middle").eval()
    noisy, timestep, tokens, pooled = (
        torch.randn(1, 4, 8, 8),
        torch.tensor([3]),
        torch.randn(1, 5, 24),
        torch.zeros(1, 12),
    )
    lower = denoise(widened, noisy, timestep, tokens, pooled, 0, lower_bchw=torch.randn_like(noisy))
    torch.testing.assert_close(lower, denoise(unet, noisy, timestep, tokens, pooled, 0), rtol=0, atol=1e-6)
    widened.save_pretrained(tmp_path / "again")
    assert same(starting(tmp_path / "again", "cascade_final"), widened)


@subtests.parametrize(
    ("scheduler", "recipe", "sentence"),
    [
        (
            {},
            {"prediction_type": "v_prediction"},
            "schedule.prediction_type = epsilon, but the recipe says v_prediction",
        ),
        (
            {"prediction_type": "v_prediction"},
            {},
            "schedule.prediction_type = v_prediction, but the recipe says epsilon",
        ),
        ({"beta_schedule": "linear"}, {}, "schedule.beta_schedule = linear"),
        ({"beta_end": 0.02}, {}, r"schedule.beta_end = 0.02, but the recipe says 0.012"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, {}, "rescale_betas_zero_snr = True"),
    ],
)
def test_another_meaning_of_the_prediction_is_refused(scheduler, recipe, sentence, tmp_path) -> None:
    write_pipeline(tmp_path, stable_diffusion_unet(), **scheduler)
    run = contract("structure", schedule=NoiseSchedule(**recipe))
    for place in (tmp_path, tmp_path / "unet"):
        with pytest.raises(UserError, match=sentence):
            starting(place, contract_of_run=run)


@checks
def a_flow_matching_model_is_refused(tmp_path) -> None:
    write_pipeline(tmp_path, stable_diffusion_unet())
    scheduler = tmp_path / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}))
    with pytest.raises(UserError, match=r"schedule.beta_schedule = None, but the recipe says scaled_linear"):
        starting(tmp_path)


@subtests.parametrize(
    ("changes", "sentence"),
    [
        ({"autoencoder_hash": "b2"}, "was trained with autoencoder_hash b2, but this run has a1"),
        ({"text_encoder_hashes": ("t2",)}, "was trained with text_encoder_hashes"),
        ({"placeholder_tokens": ("zimble",)}, "tokens of their own for zimble; name them in placeholder_tokens"),
        ({"latent_scaling": 0.5}, "was trained with latent_scaling 0.5"),
        ({"schedule": NoiseSchedule(prediction_type="v_prediction")}, "prediction_type = v_prediction"),
    ],
)
def test_a_generator_of_other_encoders_or_noise_is_refused(changes, sentence, tmp_path) -> None:
    write_generator(tmp_path, "structure", seed=0, **changes)
    with pytest.raises(UserError, match=sentence):
        starting(tmp_path)


@subtests.parametrize(
    ("change", "sentence"),
    [
        ({"in_channels": 8, "out_channels": 8}, "takes 8 and gives 8 channels, but the autoencoder has 4"),
        ({"in_channels": 9}, "takes 9 and gives 4 channels"),
        ({"cross_attention_dim": 16}, "attends to 16 channels of text, but the text encoders give 24"),
        ({"num_class_embeds": 10}, "a text-to-image UNet like Stable Diffusion's or SDXL's is needed"),
    ],
)
def test_a_unet_that_does_not_fit_the_encoders_is_refused(change, sentence, tmp_path) -> None:
    stable_diffusion_unet(**change).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=sentence):
        starting(tmp_path)


def test_what_is_no_unet_gets_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"There is no model at .*nothing"):
        starting(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds nothing, but a UNet2DConditionModel is needed"):
        starting(tmp_path / "empty")
    blocks = {"block_out_channels": (8, 8), "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)} | dict(
        list(blocks.items())[1:]
    )
    AutoencoderTiny(**blocks).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="vae holds AutoencoderTiny, but a UNet2DConditionModel is needed"):
        starting(tmp_path / "vae")
    stable_diffusion_unet().save_pretrained(tmp_path / "torn")
    (tmp_path / "torn/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="torn can not be loaded"):
        starting(tmp_path / "torn")
    stable_diffusion_unet().save_pretrained(tmp_path / "partial")
    weights = load_file(tmp_path / "partial/diffusion_pytorch_model.safetensors")
    weights.pop("conv_out.weight")
    save_file(weights, tmp_path / "partial/diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"partial lacks 1 weights of its UNet, such as conv_out.weight"):
        starting(tmp_path / "partial")
    write_pair(tmp_path / "pair")
    with pytest.raises(UserError, match="is a pair; set subfolder to 'structure' or 'texture', not 'boost_low'"):
        starting(tmp_path / "pair", "boost_low")
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux/model_index.json").write_text(
        '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}'
    )
    with pytest.raises(UserError, match="is a FluxPipeline without a UNet"):
        starting(tmp_path / "flux")


def test_a_hub_repository_is_read_from_the_cache_and_missed_in_one_sentence(tmp_path, monkeypatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    unet = stable_diffusion_unet(6)
    cached, commit = tmp_path / "models--someone--small", "c0ffee" + "0" * 34
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    write_pipeline(cached / "snapshots" / commit, unet)
    assert same(starting("someone/small"), unet)
    with pytest.raises(UserError, match=r"someone/nothing is no folder here, and .* can not be fetched from the hub"):
        starting("someone/nothing")


def over_to(latent_channels: int, source: Path, role: Role = "structure", seed: int = 0) -> Any:
    """The network of a run in another latent space."""
    start = InitialWeights(source=str(source), new_latents=True)
    recipe = tiny().model_copy(update={"schedule": NoiseSchedule(), "init_from": start, "seed": seed})
    other = contract(role, autoencoder_hash="a2", latent_scaling=2.0)
    return initial_denoiser(recipe, role, latent_channels, CHANNELS["context"], CHANNELS["pooled"], other)


def test_going_over_to_another_autoencoder_keeps_all_but_first_and_last_layer(tmp_path) -> None:
    old = dict(write_generator(tmp_path, "structure", 3).state_dict())
    network = over_to(7, tmp_path)
    new = dict(network.state_dict())
    changed = {name for name in new if new[name].shape != old[name].shape or not torch.equal(new[name], old[name])}
    assert changed == {"conv_in.weight", "conv_in.bias", "conv_out.weight", "conv_out.bias"}
    assert (
        denoise(
            network, torch.randn(1, 7, 8, 8), torch.tensor([3]), torch.randn(1, 5, 24), torch.randn(1, 12), 0
        ).shape[1]
        == 7
    )
    assert (network.config.in_channels, network.config.out_channels) == (7, 7)
    assert same(network, over_to(7, tmp_path))
    assert not same(network, over_to(7, tmp_path, seed=1))


@checks
def other_texts_are_refused_even_where_the_latents_may_change(tmp_path) -> None:
    write_generator(tmp_path, "structure", 3, text_encoder_hashes=("t2",))
    with pytest.raises(UserError, match="trained with text_encoder_hashes"):
        over_to(7, tmp_path)


@checks
def a_generator_in_its_pipeline_folder_is_found_with_its_contract(tmp_path) -> None:
    unet = write_generator(tmp_path / "unet", "single", 4)
    index = {"_class_name": "SingleStage", "unet": ["diffusers", "UNet2DConditionModel"]}
    index["contracts"] = {"single": contract("single").model_dump(mode="json")}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert same(starting(tmp_path, "single"), unet)
    with pytest.raises(UserError, match="autoencoder_hash"):
        starting(tmp_path, "single", contract_of_run=contract("single", autoencoder_hash="a2"))


test_initial = checks.test()
