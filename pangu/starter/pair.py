"""The embedded starter pair: packs two trained generators, and puts them together with the embedded encoders again."""

import shutil
from pathlib import Path

import torch

from pangu.config import ROLES, AutoencoderSource, Recipe, TextEncoderSource
from pangu.contract import check_pair
from pangu.data.example.openmoji import catalogue
from pangu.models.autoencoders import load_autoencoder
from pangu.models.schedulers import sampler
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import check_encoders, load_generator
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.storage import read_json, write_json

PROPOSED = (
    "fox", "red apple", "snowman", "sailboat", "cactus", "sunflower", "pizza", "castle", "penguin", "owl", "butterfly", "teapot",
    "crab", "rocket", "bicycle", "rainbow", "wolf", "umbrella",
)  # fmt: skip


def pack_pair(structure: Path, texture: Path, recipe: Recipe, folder: Path) -> int:
    """Write both generators in half precision as a pair folder without encoders; returns the bytes of its weights.

    Raises:
        UserError: the generators do not make a pair, or were not trained with the embedded encoders.
    """
    networks = dict(zip(ROLES, (load_generator(structure), load_generator(texture)), strict=True))
    contracts = {role: contract for role, (_, contract) in networks.items()}
    check_pair(contracts["structure"], contracts["texture"])
    check_encoders(
        contracts["structure"], load_autoencoder(AutoencoderSource()), [load_text_tower(TextEncoderSource())]
    )
    pair = PanGuDrawPipeline(
        structure=networks["structure"][0],
        texture=networks["texture"][0],
        vae=None,
        scheduler=sampler(recipe.schedule),
        tokenizer=None,
        text_encoder=None,
        contracts={role: contract.model_dump(mode="json") for role, contract in contracts.items()},
        hidden_layers=[-1],
        sampling=recipe.sampling.model_dump(),
        prompts=captions(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    pair.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):
        # diffusers notes where a network was loaded from: a place on this machine.
        write_json(path, {name: value for name, value in read_json(path).items() if name != "_name_or_path"})
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def captions() -> dict[str, list[str]]:
    """Language -> captions that the starter pair was trained on and draws well, spread over the list."""
    drawings = {one.caption_en: one for one in catalogue()}
    return {"zh": [drawings[name].caption_zh for name in PROPOSED], "en": list(PROPOSED)}


def starter_pair() -> PanGuDrawPipeline:
    """The embedded pair with its encoders, in float32: draws OpenMoji's style from English and Chinese captions at 96 px.

    Raises:
        UserError: this installation carries no pair.
    """
    pair: PanGuDrawPipeline = PanGuDrawPipeline.from_pretrained("embedded")
    check_encoders(pair.contract("structure"), pair.vae, pair.text_towers)
    return pair
