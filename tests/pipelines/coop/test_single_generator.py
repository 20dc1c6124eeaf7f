"""Our own single generator under our own ControlNet: asked as it was trained, and refused where the two do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.data.encode.encoders import describe
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.controlnet import ControlledUNet, add_control
from pangu.models.denoisers import build_denoiser, denoise
from pangu.models.schedulers import sampler
from pangu.models.text import load_text_tower
from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.coop import CoopPipeline, Partner
from pangu.pipelines.partners import partner_folder
from pangu.recipes import tiny
from tests.pipelines.coop.coops import close, draw, together
from tests.train.control import single_recipe

EDGES = Image.new("RGB", (96, 96), "black")
EDGES.paste((255, 255, 255), (20, 20, 60, 24))
CALL = {"height": 96, "width": 96}


def awake(controlled: ControlledUNet) -> ControlledUNet:
    """A ControlNet that says something: a fresh one adds zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for parameter in controlled.controlnet.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return controlled.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def single() -> SingleStage:
    recipe = single_recipe()
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    encoders = describe(autoencoder, towers, recipe.max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = build_denoiser(recipe.denoiser, 16, encoders.context_channels, encoders.pooled_channels).eval()
    pipe = SingleStage(
        unet=unet, vae=autoencoder, scheduler=sampler(recipe.schedule), tokenizer=towers[0].tokenizer,
        text_encoder=towers[0].encoder, contracts={"single": encoders.contract(recipe, "single").model_dump(mode="json")},
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def controlled(single: SingleStage) -> ControlledUNet:
    return awake(add_control(single.unet, 8, seed=0))


@pytest.fixture
def folder(single: SingleStage, controlled: ControlledUNet, tmp_path: Path) -> Path:
    """As role `control` leaves it."""
    controlled.save_pretrained(tmp_path / "control")
    reference = single.reference.model_copy(update={"role": "control"})
    reference.save(tmp_path / "control")
    return tmp_path / "control"


def test_alone_under_its_controlnet_it_is_the_network_that_was_trained(single, controlled, folder) -> None:
    generator = torch.Generator().manual_seed(1)
    scheduler = sampler(single.reference.schedule)
    scheduler.set_timesteps(4)
    latents = torch.randn(1, 16, 12, 12, generator=generator)
    tokens, negative, pooled, negative_pooled = single.encode_prompt(["a fox"])
    shown = torch.from_numpy(np.asarray(EDGES).copy()).permute(2, 0, 1)[None].float() / 255
    for t in scheduler.timesteps:
        both = denoise(
            controlled,
            torch.cat([latents] * 2),
            t.expand(2),
            torch.cat([negative, tokens]),
            torch.cat([negative_pooled, pooled]),
            0,
            control={"control_bchw": torch.cat([shown] * 2), "conditioning_scale": 0.7},
        )
        null, conditional = both.chunk(2)
        latents = scheduler.step(null + 3.0 * (conditional - null), t, latents, return_dict=False)[0]
    coop = together(single, controlnet=folder)
    drawn = draw(coop, 1, **CALL, image=EDGES, conditioning_scale=0.7, guidance_scale=3.0)
    close(drawn, latents, 1e-4)
    assert not torch.allclose(drawn, draw(together(single), 1, **CALL, guidance_scale=3.0), atol=1e-2)


def test_each_picture_of_a_batch_has_its_own_control_image(single, folder) -> None:
    coop = together(single, controlnet=folder)
    other = EDGES.rotate(90)
    both = draw(coop, 1, 2, **CALL, image=[EDGES, other])
    for place, image in enumerate((EDGES, other)):
        close(both[place : place + 1], draw(coop, place + 1, **CALL, image=image), 1e-4)


def test_a_partner_takes_the_folder_that_training_wrote(single, folder, pair) -> None:
    coop = together(pair, Partner(single, controlnet=folder, image=EDGES, strength=1.0))
    plain = together(pair, Partner(single, strength=1.0))
    assert not torch.allclose(draw(coop, 1, **CALL), draw(plain, 1, **CALL), atol=1e-2)
    assert single.controlnet is None  # the user's pipeline stays as it is


def test_it_is_saved_and_loaded_with_its_controlnet(single, folder, tmp_path) -> None:
    coop = together(single, controlnet=folder)
    coop.main.save_pretrained(tmp_path / "both")
    again = together(tmp_path / "both")
    close(draw(again, 1, **CALL, image=EDGES), draw(coop, 1, **CALL, image=EDGES), 1e-4)
    with pytest.raises(UserError, match="draw with CoopPipeline"):
        coop.main("a fox", num_inference_steps=1)


def test_a_generator_becomes_a_partners_folder_once(single, tmp_path) -> None:
    single.unet.save_pretrained(tmp_path / "generator")
    single.reference.save(tmp_path / "generator")
    made = partner_folder(tmp_path / "generator", single_recipe(), tmp_path / "partner")
    close(draw(together(tmp_path / "partner"), 1, **CALL), draw(together(single), 1, **CALL), 1e-4)
    assert partner_folder(tmp_path / "generator", single_recipe(), tmp_path / "partner") == made.model_copy(
        update={"already_done": True}
    )
    (tmp_path / "partner/vae/diffusion_pytorch_model.safetensors").unlink()
    assert partner_folder(tmp_path / "generator", single_recipe(), tmp_path / "partner") == made
    single.reference.model_copy(update={"trained_steps": 9}).save(tmp_path / "generator")
    assert not partner_folder(tmp_path / "generator", single_recipe(), tmp_path / "partner").already_done


def test_what_does_not_fit_is_refused_in_one_sentence(single, folder, tmp_path) -> None:
    with pytest.raises(UserError, match="no control image"):
        draw(together(single, controlnet=folder), 1, **CALL)
    with pytest.raises(UserError, match="takes one ControlNet, not 2"):
        CoopPipeline(single, controlnet=[folder, folder])
    (tmp_path / "other").mkdir()
    foreign = single.reference.model_copy(update={"autoencoder_hash": "another"})
    for path in folder.iterdir():
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    foreign.save(tmp_path / "other")
    with pytest.raises(UserError, match="was trained with autoencoder_hash another, but the generator has"):
        CoopPipeline(single, controlnet=tmp_path / "other")
    wider = tiny().denoiser.model_copy(update={"block_out_channels": (24, 32)})
    add_control(build_denoiser(wider, 16, 128, 128), 8, 0).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="was made for a UNet with block_out_channels"):
        CoopPipeline(single, controlnet=tmp_path / "wide")
