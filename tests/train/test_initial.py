"""What a run starts from: pinned once, checked first, the same for both roles; adapters train alone and resume to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from pangu.config import InitialWeights, LoraConfig, Recipe
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import Encoders
from pangu.errors import UserError
from pangu.models.lora import ADAPTER, load_lora, taken_layers
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.starting_weights import export_generator, pin_initial, starting_network
from tests import subtests
from tests.train.rows import random_rows, small_recipe

ENCODERS = Encoders(
    autoencoder_hash="a",
    text_encoder_hashes=("t",),
    latent_scaling=1.0,
    latent_shift=0.0,
    spatial_factor=8,
    latent_channels=4,
    context_channels=8,
    pooled_channels=8,
    max_tokens=16,
)
LORA = LoraConfig(rank=2, alpha=2.0)


def contract(recipe: Recipe, role: str = "structure") -> GeneratorContract:
    return ENCODERS.contract(recipe, role)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    """A generator folder, as a finished structure run leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    trained = train_loop("structure", small_recipe(steps=2), random_rows(), "e", folder / "checkpoints")
    export_generator(folder / "generator", trained.denoiser, trained.ema, 0, contract(small_recipe()))
    return folder / "generator"


def starting_from(folder: Path, **changes: object) -> Recipe:
    return small_recipe(steps=3).model_copy(update={"init_from": InitialWeights(source=str(folder)), **changes})


@subtests.parametrize("role", ["structure", "texture"])
def test_both_roles_can_start_from_one_generator(role: str, generator: Path, tmp_path: Path) -> None:
    recipe = starting_from(generator)
    pin_initial(tmp_path, recipe, role, contract(recipe, role), ENCODERS)
    network = starting_network(tmp_path, recipe, role, contract(recipe, role), ENCODERS)
    assert same(weights(network), weights(UNet2DConditionModel.from_pretrained(generator)))


def test_what_is_pinned_does_not_follow_its_source(generator: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    UNet2DConditionModel.from_pretrained(generator).save_pretrained(source)
    recipe = starting_from(source)
    pin_initial(tmp_path / "run", recipe, "structure", contract(recipe), ENCODERS)
    first = weights(starting_network(tmp_path / "run", recipe, "structure", contract(recipe), ENCODERS))
    changed = UNet2DConditionModel.from_pretrained(source)
    torch.nn.init.zeros_(changed.conv_in.weight)
    changed.save_pretrained(source)
    pin_initial(tmp_path / "run", recipe, "structure", contract(recipe), ENCODERS)
    assert same(weights(starting_network(tmp_path / "run", recipe, "structure", contract(recipe), ENCODERS)), first)


def test_weights_of_another_autoencoder_are_refused_before_training(generator: Path, tmp_path: Path) -> None:
    recipe = starting_from(generator)
    other = contract(recipe).model_copy(update={"autoencoder_hash": "b"})
    with pytest.raises(UserError, match="was trained with autoencoder_hash a, but this run has b"):
        pin_initial(tmp_path, recipe, "structure", other, ENCODERS)
    assert not (tmp_path / "initial").exists()


def adapted(generator: Path, folder: Path, hooks: Hooks | None = None, dropout: float = 0.0) -> Trained:
    recipe = starting_from(generator, lora=LORA.model_copy(update={"dropout": dropout}))
    pin_initial(folder, recipe, "structure", contract(recipe), ENCODERS)
    network = starting_network(folder, recipe, "structure", contract(recipe), ENCODERS)
    return train_loop("structure", recipe, random_rows(), "e", folder / "checkpoints", hooks=hooks, denoiser=network)


def test_only_the_adapter_is_trained_and_kept(generator: Path, tmp_path: Path) -> None:
    base = weights(UNet2DConditionModel.from_pretrained(generator))
    trained = adapted(generator, tmp_path)
    after = weights(trained.denoiser)
    untouched = {name.replace(".base_layer", ""): tensor for name, tensor in after.items() if "lora" not in name}
    assert same(untouched, base)
    assert any(bool(tensor.any()) for name, tensor in after.items() if "lora_B" in name)
    path, _ = latest_checkpoint(tmp_path / "checkpoints")
    assert (path / "model.safetensors").stat().st_size < 0.5 * sum(4 * t.numel() for t in base.values())


@subtests.parametrize("dropout", [0.0, 0.5])
@pytest.mark.long
def test_an_interrupted_adapter_run_equals_an_uninterrupted_one(
    dropout: float, generator: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        """The process ends here."""

    def stop(step: int, metrics: dict) -> None:
        if step == 2:
            raise Killed

    whole = adapted(generator, tmp_path / "whole", dropout=dropout)
    with pytest.raises(Killed):
        adapted(generator, tmp_path / "killed", Hooks(stop), dropout)
    torch.manual_seed(7)  # another process would have other random numbers
    resumed = adapted(generator, tmp_path / "killed", dropout=dropout)
    assert resumed.resumed_from == 1
    assert same(weights(resumed.denoiser), weights(whole.denoiser))


def test_the_exported_generator_has_the_adapter_fused_and_beside_it(generator: Path, tmp_path: Path) -> None:
    trained = adapted(generator, tmp_path)
    export_generator(tmp_path / "generator", trained.denoiser, trained.ema, 0, contract(small_recipe()))
    fused = UNet2DConditionModel.from_pretrained(tmp_path / "generator").eval()
    alone = UNet2DConditionModel.from_pretrained(generator).eval()
    load_lora(alone, tmp_path / "generator/lora", contract(small_recipe()))
    with trained.ema.applied():
        taken, ours = taken_layers(alone, ADAPTER), taken_layers(trained.denoiser, ADAPTER)
        assert taken.keys() == ours.keys() and ours
        for name, low in ours.items():
            assert torch.equal(taken[name].down, low.down) and torch.equal(taken[name].up, low.up)
    text = torch.randn(1, 6, 8), torch.randn(1, 8)
    latents, added = torch.randn(1, 4, 4, 4), {"text_embeds": text[1], "time_ids": torch.zeros(1, 1)}
    arguments = {"encoder_hidden_states": text[0], "added_cond_kwargs": added}
    with torch.no_grad(), trained.ema.applied():
        expected = trained.denoiser.eval()(latents, 600, **arguments).sample
        torch.testing.assert_close(fused(latents, 600, **arguments).sample, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone(latents, 600, **arguments).sample, expected, rtol=1e-4, atol=1e-5)
