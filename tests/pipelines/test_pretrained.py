"""A pretrained Stable Diffusion or SDXL split into a pair, not yet tuned, draws what diffusers' own pipeline draws."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast

from pangu.config import ROLES, AutoencoderSource, InitialWeights, NoiseSchedule, Recipe, TextEncoderSource
from pangu.data.encode.encoders import describe
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.init_weights import initial_denoiser
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import join
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from tests import subtests
from tests.models.unets import sdxl_unet, stable_diffusion_unet

SCHEDULE = NoiseSchedule()
PROMPT, NEGATIVE = "fox", "water"


def tokenizer() -> CLIPTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}, merges=[], model_max_length=16)


def text_encoder(cls: Any, width: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=12, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    encoder = cls(config).eval()
    # A final norm that does something: trained ones do.
    with torch.no_grad():
        next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm")).weight.mul_(2)
    return encoder


def published(kind: str) -> Any:
    """A small model in the format of the published ones, random weights."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.5,
    )  # fmt: skip
    scheduler = DDIMScheduler(**SCHEDULE.model_dump(), clip_sample=False, timestep_spacing="trailing")
    parts: dict[str, Any] = {"vae": vae, "scheduler": scheduler, "tokenizer": tokenizer()}
    if kind == "sd":
        parts |= {"text_encoder": text_encoder(CLIPTextModel, 24), "unet": stable_diffusion_unet()}
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    first, second = text_encoder(CLIPTextModel, 8), text_encoder(CLIPTextModelWithProjection, 16)
    parts |= {"text_encoder": first, "text_encoder_2": second, "tokenizer_2": tokenizer(), "unet": sdxl_unet()}
    return StableDiffusionXLPipeline(**parts)


def recipe_for(kind: str, folder: Path) -> Recipe:
    towers = {
        "sd": [("text_encoder", "tokenizer", 0)],
        "sdxl": [("text_encoder", "tokenizer", -2), ("text_encoder_2", "tokenizer_2", -2)],
    }
    encoders = tuple(
        TextEncoderSource(
            source=str(folder), subfolder=encoder, tokenizer_subfolder=words, hidden_layer=layer, sees_padding=True
        )
        for encoder, words, layer in towers[kind]
    )
    return tiny().model_copy(
        update={
            "schedule": SCHEDULE, "autoencoder": AutoencoderSource(source=str(folder), subfolder="vae"),
            "text_encoders": encoders, "init_from": InitialWeights(source=str(folder)),
        }
    )  # fmt: skip


def split(recipe: Recipe) -> PanGuDrawPipeline:
    """Both halves from their common start."""
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    encoders = describe(autoencoder, towers, recipe.max_tokens)
    channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
    contracts = {role: encoders.contract(recipe, role) for role in ROLES}
    halves = {role: initial_denoiser(recipe, role, *channels, contracts[role]).eval() for role in ROLES}
    return join(halves["structure"], halves["texture"], contracts, autoencoder, towers, recipe)


@subtests.parametrize("kind", ["sd", "sdxl"])
def test_an_untuned_split_draws_what_the_original_draws(kind, tmp_path) -> None:
    original = published(kind)
    original.save_pretrained(tmp_path)
    pair = split(recipe_for(kind, tmp_path))
    noise = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    for rescale in (0.7, 0.0):
        images = []
        for pipeline in (original, pair):
            pipeline.set_progress_bar_config(disable=True)
            options = {"height": 96, "width": 96, "num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "pt"}
            options["guidance_rescale"] = rescale
            images.append(pipeline(PROMPT, negative_prompt=NEGATIVE, latents=noise, **options).images)
        torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-3)
    pair.save_pretrained(tmp_path / "pair")
    again = PanGuDrawPipeline.from_pretrained(tmp_path / "pair")
    again.set_progress_bar_config(disable=True)
    repeated = again(PROMPT, negative_prompt=NEGATIVE, latents=noise, **options).images
    torch.testing.assert_close(repeated, images[0], rtol=0, atol=1e-3)


def test_text_read_in_another_way_is_another_encoder(tmp_path) -> None:
    published("sd").save_pretrained(tmp_path)
    source = recipe_for("sd", tmp_path).text_encoders[0]
    ways = [source, *(source.model_copy(update=change) for change in ({"hidden_layer": -1}, {"sees_padding": False}))]
    assert len({load_text_tower(way).hash for way in ways}) == 3


def test_a_split_under_the_wrong_schedule_is_refused(tmp_path) -> None:
    published("sd").save_pretrained(tmp_path)
    recipe = recipe_for("sd", tmp_path)
    wrong = recipe.model_copy(update={"schedule": NoiseSchedule(prediction_type="v_prediction")})
    with pytest.raises(UserError, match=r"schedule.prediction_type = epsilon, but the recipe says v_prediction"):
        split(wrong)
