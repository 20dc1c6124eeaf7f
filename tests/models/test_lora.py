"""Adapters: what trains, what is written, who can read it, and where it may go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pangu.config import LoraConfig, NoiseSchedule
from pangu.errors import UserError
from pangu.models.lora import (
    WEIGHTS,
    add_lora,
    fuse_lora,
    has_lora,
    load_lora,
    save_lora,
    set_lora_scale,
    trained_parameters,
    unload_lora,
)
from tests import subtests
from tests.models.test_initial import contract
from tests.models.unets import stable_diffusion_unet

checks = subtests.Checks()

CONFIG = LoraConfig(rank=3, alpha=4.5)
NOISY, TOKENS = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    return unet(NOISY, 7, TOKENS).sample


def adapted(config: LoraConfig = CONFIG, seed: int = 0) -> UNet2DConditionModel:
    """A UNet with an adapter that does something, as after training."""
    unet = stable_diffusion_unet()
    add_lora(unet, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return unet.eval()


def written(folder: Path, role: str = "structure", config: LoraConfig = CONFIG, **changes: Any) -> torch.Tensor:
    """An adapter folder, and what the UNet that it was taken from predicts."""
    unet = adapted(config)
    save_lora(unet, contract(role, **changes), folder)
    return predict(unet)


def test_a_new_adapter_changes_nothing_and_is_all_that_trains() -> None:
    plain, unet = stable_diffusion_unet(), stable_diffusion_unet()
    state = torch.get_rng_state()
    add_lora(unet, CONFIG, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(predict(unet), predict(plain), **CLOSE)
    names = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name for name in names)
    layers = {name.split(".lora_")[0].rsplit("attn", 1)[1] for name in names}
    assert layers == {f"{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")}
    assert len(trained_parameters(unet)) == len(names)
    assert len(trained_parameters(plain)) == len(list(plain.parameters()))


@checks
def the_seed_alone_decides_the_first_weights() -> None:
    weights = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        unet = stable_diffusion_unet()
        add_lora(unet, CONFIG, seed)
        weights.append(torch.cat([parameter.flatten() for parameter in trained_parameters(unet)]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@checks
def a_training_step_moves_the_adapter_only() -> None:
    unet = adapted().train()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    optimizer = torch.optim.SGD(trained_parameters(unet), lr=1.0)
    unet(NOISY, 7, TOKENS).sample.square().mean().backward()
    optimizer.step()
    moved = {name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)


def test_scale_zero_is_the_plain_generator_and_one_what_was_trained(tmp_path) -> None:
    trained = written(tmp_path)
    unet = stable_diffusion_unet()
    plain = predict(unet)
    load_lora(unet, tmp_path, contract("structure"))
    assert not torch.allclose(trained, plain, atol=1e-3)
    torch.testing.assert_close(predict(unet), trained, **CLOSE)
    for _ in range(3):  # scales are absolute: repeating one changes nothing
        set_lora_scale(unet, 0.0)
        assert torch.equal(predict(unet), plain)
        set_lora_scale(unet, 1.0)
        torch.testing.assert_close(predict(unet), trained, **CLOSE)
    unload_lora(unet)
    assert not has_lora(unet)
    assert torch.equal(predict(unet), plain)


@subtests.parametrize("scale", [0.0, 0.6, 1.0])
def test_a_fused_adapter_predicts_the_same_and_saves_as_an_ordinary_unet(scale, tmp_path) -> None:
    unet = adapted()
    set_lora_scale(unet, scale)
    expected = predict(unet)
    fuse_lora(unet, scale)
    torch.testing.assert_close(predict(unet), expected, **CLOSE)
    unet.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert set(again.state_dict()) == set(stable_diffusion_unet().state_dict())
    torch.testing.assert_close(predict(again), expected, **CLOSE)


@checks
def diffusers_own_pipeline_loader_reads_the_file(tmp_path) -> None:
    trained = written(tmp_path)
    weights, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
        tmp_path, return_lora_metadata=True, local_files_only=True
    )
    unet = stable_diffusion_unet()
    StableDiffusionPipeline.load_lora_into_unet(weights, alphas, unet, metadata=metadata)
    torch.testing.assert_close(predict(unet.eval()), trained, **CLOSE)


@checks
def a_file_without_prefix_is_read_too(tmp_path) -> None:
    unet = adapted(LoraConfig(rank=3, alpha=3))
    unet.save_lora_adapter(tmp_path)
    contract("structure").save(tmp_path)
    other = stable_diffusion_unet()
    load_lora(other, tmp_path, contract("structure"))
    torch.testing.assert_close(predict(other), predict(unet), **CLOSE)


@checks
def what_is_written_repeats(tmp_path) -> None:
    facts, tensors = [], []
    for name in "ab":
        written(tmp_path / name)
        with safe_open(tmp_path / name / WEIGHTS, "pt") as file:
            facts.append(file.metadata())
        tensors.append(load_file(tmp_path / name / WEIGHTS))
    assert facts[0] == facts[1]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0] | tensors[1])


@checks
def dropout_of_the_training_is_off_when_an_adapter_is_loaded(tmp_path) -> None:
    trained = written(tmp_path, config=LoraConfig(rank=3, alpha=4.5, dropout=0.5))
    unet = stable_diffusion_unet()
    load_lora(unet, tmp_path, contract("structure"))
    torch.testing.assert_close(predict(unet), trained, **CLOSE)
    assert not trained_parameters(unet)


@checks
def a_second_adapter_takes_the_place_of_the_first(tmp_path) -> None:
    written(tmp_path / "first")
    second = adapted(LoraConfig(rank=2, alpha=2), seed=7)
    save_lora(second, contract("structure"), tmp_path / "second")
    unet = stable_diffusion_unet()
    for name in ("first", "second"):
        load_lora(unet, tmp_path / name, contract("structure"))
    torch.testing.assert_close(predict(unet), predict(second), **CLOSE)


@checks
def an_adapter_goes_only_where_its_timesteps_are(tmp_path) -> None:
    for role in ("structure", "boost_high"):
        written(tmp_path / role, role)
    with pytest.raises(UserError, match=r"trained for t in \[500, 1000\) \(structure\), but the texture .* \[0, 500\)"):
        load_lora(stable_diffusion_unet(), tmp_path / "structure", contract("texture"))
    # Trained on the whole range, it knows those of either half.
    for half in ("structure", "texture"):
        load_lora(stable_diffusion_unet(), tmp_path / "boost_high", contract(half))


@subtests.parametrize(
    "change",
    [{"schedule": NoiseSchedule(beta_end=0.02)}, {"autoencoder_hash": "b2"}, {"text_encoder_hashes": ("t2",)}],
    ids=lambda change: next(iter(change)),
)
def test_an_adapter_of_other_encoders_or_noise_is_refused(change, tmp_path) -> None:
    written(tmp_path, **change)
    with pytest.raises(UserError, match=f"was trained with {next(iter(change))} .* but the structure generator with"):
        load_lora(stable_diffusion_unet(), tmp_path, contract("structure"))


def test_bad_adapters_get_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"There is no adapter at .*; a folder with pytorch_lora_weights.safetensors"):
        load_lora(stable_diffusion_unet(), tmp_path, contract("structure"))
    written(tmp_path / "wide")
    wide = load_file(tmp_path / "wide" / WEIGHTS)
    save_file({name: torch.cat([value, value], 1) for name, value in wide.items()}, tmp_path / "wide" / WEIGHTS)
    unet = stable_diffusion_unet()
    with pytest.raises(UserError, match="does not fit the structure generator"):
        load_lora(unet, tmp_path / "wide", contract("structure"))
    assert torch.equal(predict(unet), predict(stable_diffusion_unet())), "nothing of it is left behind"
    written(tmp_path / "torn")
    (tmp_path / "torn" / WEIGHTS).write_bytes(b"not a tensor file")
    with pytest.raises(UserError, match="does not fit the structure generator"):
        load_lora(stable_diffusion_unet(), tmp_path / "torn", contract("structure"))
    written(tmp_path / "bare")
    (tmp_path / "bare/contract.json").unlink()
    with pytest.raises(UserError, match=r"has no contract.json, so its time interval is unknown"):
        load_lora(stable_diffusion_unet(), tmp_path / "bare", contract("structure"))


@checks
def unknown_target_modules_are_named() -> None:
    with pytest.raises(UserError, match=r"lora.target_modules \(to_x\) names no layer"):
        add_lora(stable_diffusion_unet(), LoraConfig(target_modules=("to_x",)), seed=0)


test_lora = checks.test()
