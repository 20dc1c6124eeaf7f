"""The embedded starter pair: packs two trained generators, and puts them together with the embedded encoders again."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pangu.config import ROLES, AutoencoderSource, Recipe, Role, TextEncoderSource
from pangu.contract import GeneratorContract, check_pair
from pangu.errors import UserError
from pangu.models.autoencoders import autoencoder_hash, load_autoencoder
from pangu.models.schedulers import sampler
from pangu.models.text import load_text_tower
from pangu.pipelines.adapted_styles import component_of
from pangu.pipelines.assemble import check_encoders, load_generator
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.starter.proposed import proposed
from pangu.starter.successor import latents_of, word_error
from pangu.storage import read_json, write_json

LATENTS_MAY, WORDS_MAY = 0.01, 0.15
"""What other encoders may change: of the latents' variance, and of what a caption changes in a prediction."""


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
    halves = {str(role): network for role, (network, _) in networks.items()}
    return _pack(halves, contracts, sampler(recipe.schedule), recipe.sampling.model_dump(), folder)


def adopt(
    pair: PanGuDrawPipeline,
    autoencoder: Path,
    text_encoder: Path,
    images_nhwc: Tensor,
    captions: Sequence[str],
    folder: Path,
) -> dict[str, float]:
    """Write a pair's halves as one of other encoders, which say the same, and both encoders beside it.

    folder: gets `autoencoder`, `text_encoder` and `starter_pair`. images_nhwc (N, H, W, 3) uint8, captions: what the pair was
    trained on, to be compared. Returns the shares by which latents and predictions differ.

    Raises:
        UserError: the pair would be asked for what it never learnt.
    """
    images, tower = (
        load_autoencoder(AutoencoderSource(source=str(autoencoder))),
        load_text_tower(TextEncoderSource(source=str(text_encoder))),
    )
    latents = latents_of(pair.vae, images_nhwc)
    found = {
        "latents": float((latents_of(images, images_nhwc) - latents).square().mean() / latents.var()),
        "words": word_error(pair, tower, captions, latents),
    }
    for name, most in (("latents", LATENTS_MAY), ("words", WORDS_MAY)):
        if not found[name] <= most:
            raise UserError(
                f"These encoders change {found[name]:.1%} of the {name} that the pair knows, more than {most:.0%}."
            )
    shutil.copytree(autoencoder, folder / "autoencoder", dirs_exist_ok=True)
    shutil.copytree(text_encoder, folder / "text_encoder", dirs_exist_ok=True)
    hashes = {"autoencoder_hash": autoencoder_hash(images), "text_encoder_hashes": (tower.hash,)}
    contracts = {role: pair.contract(role).model_copy(update=hashes) for role in ROLES}
    _pack(_networks(pair), contracts, pair.scheduler, pair.config.sampling, folder / "starter_pair")
    return found


def pack_styles(
    pair: PanGuDrawPipeline, adapters: Mapping[str, Path], folder: Path, texture_guidance: float | None = None
) -> int:
    """Write a pair's halves as a pair folder without encoders that draws further styles; returns the bytes of its weights.

    adapters: style -> folder with an adapter for each half, as `pangu starter style` leaves it. texture_guidance: what the pair
    prefers, where it is not the guidance of structure.

    Raises:
        UserError: an adapter was made for another half, or does not fit it.
    """
    for style, own in adapters.items():
        pair.load_style(style, **{str(role): own / role for role in ROLES})
    contracts = {role: pair.contract(role) for role in ROLES}
    sampling = pair.sampling.model_copy(update={"texture_guidance": texture_guidance}).model_dump()
    return _pack(_networks(pair), contracts, pair.scheduler, sampling, folder)


def _networks(pair: PanGuDrawPipeline) -> dict[str, Any]:
    """Both halves, and the styles that they have."""
    return {name: pair.components[name] for role in ROLES for name in (role, component_of(role))}


def _pack(
    parts: Mapping[str, Any],
    contracts: Mapping[Role, GeneratorContract],
    scheduler: Any,
    sampling: Mapping[str, Any],
    folder: Path,
) -> int:
    """Write a pair folder without encoders in half precision; returns the bytes of its weights."""
    pair = PanGuDrawPipeline(
        **{str(name): copy.deepcopy(part) for name, part in parts.items()},
        vae=None,
        scheduler=scheduler,
        tokenizer=None,
        text_encoder=None,
        contracts={role: contract.model_dump(mode="json") for role, contract in contracts.items()},
        hidden_layers=[-1],
        sampling=dict(sampling),
        prompts=proposed(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    pair.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):
        # diffusers notes where a network was loaded from: a place on this machine.
        write_json(path, {name: value for name, value in read_json(path).items() if name != "_name_or_path"})
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def starter_pair() -> PanGuDrawPipeline:
    """The embedded pair with its encoders, in float32: draws OpenMoji's style from English and Chinese at 96 px.

    Raises:
        UserError: this installation carries no pair.
    """
    pair: PanGuDrawPipeline = PanGuDrawPipeline.from_pretrained("embedded")
    check_encoders(pair.contract("structure"), pair.vae, pair.text_towers)
    return pair
