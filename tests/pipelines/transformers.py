"""Tiny pairs with transformers in them, in folders: SANA on both sides, or before a UNet that predicts noise."""

from pathlib import Path
from typing import Any

import torch

from pangu.config import Recipe, TextEncoderSource
from pangu.contract import GeneratorContract
from pangu.data.encode.encoders import describe
from pangu.diffusion.training_levels import equal_level
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import build_denoiser
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import assemble_experts, assemble_pair
from pangu.recipes import tiny

SANA = {
    "family": "sana", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "num_cross_attention_heads": 2,
}  # fmt: skip
FLOW = {"prediction_type": "flow_prediction"}


def flow_recipe() -> Recipe:
    """`tiny` with SANA's class, predicting flows; its boundary has the log-SNR of `tiny`'s."""
    usual = tiny()
    flow = Recipe.model_validate(usual.model_dump() | {"schedule": FLOW, "denoiser": SANA})
    return flow.model_copy(update={"boundary": round(equal_level(usual.boundary, usual.schedule, flow.schedule))})


def generator(folder: Path, role: Any, recipe: Recipe, seed: int = 3) -> Path:
    """A generator folder with random weights."""
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    encoders = describe(load_autoencoder(recipe.autoencoder), towers, recipe.max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
        network = build_denoiser(recipe.denoiser_of(role), *channels)
    network.save_pretrained(folder)
    encoders.contract(recipe, role).save(folder)
    return folder


def written_pair(kind: str, folder: Path) -> Path:
    """kind: "flow", or "mixed", whose texture half reads shorter texts, too."""
    flow = flow_recipe()
    below = flow if kind == "flow" else tiny().model_copy(update={"max_tokens": 20})
    halves = [
        generator(folder / role, role, recipe, seed)
        for role, recipe, seed in (("structure", flow, 3), ("texture", below, 4))
    ]
    assemble_pair(*halves, flow, folder / "pair")
    return folder / "pair"


def written_experts(folder: Path) -> Path:
    """Three experts: SANA that predicts flows, then two UNets that predict noise, the last of which reads by another encoder."""
    flow = flow_recipe()
    below = tiny().model_copy(update={"boundary": 200})
    other = TextEncoderSource(hidden_layer=0)
    own = below.model_copy(update={"text_encoders": (other,)})
    structure = generator(folder / "structure", "structure", flow, 3)
    middle = generator(folder / "middle", "texture", below, 5)
    contract = GeneratorContract.load(middle)
    contract.model_copy(update={"role": "middle", "low": 200, "high": tiny().boundary}).save(middle)
    texture = generator(folder / "texture", "texture", own, 4)
    assemble_experts([structure, middle, texture], flow, folder / "pair", texts={"texture": [other]})
    return folder / "pair"
