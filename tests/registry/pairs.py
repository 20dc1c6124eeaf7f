"""Small pair folders for tests of the registry: real contracts and real safetensors, no pipeline."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pangu.contract import GeneratorContract
from pangu.recipes import tiny
from pangu.storage import read_json, write_json


def contract(role: str, **changes: object) -> GeneratorContract:
    recipe = tiny()
    low, high = (recipe.boundary, 1000) if role == "structure" else (0, recipe.boundary)
    fields = {
        "role": role,
        "low": low,
        "high": high,
        "schedule": recipe.schedule,
        "autoencoder_hash": "a" * 16,
        "text_encoder_hashes": ("b" * 16,),
        "latent_scaling": 1.0,
        "spatial_factor": 8,
        "max_tokens": recipe.max_tokens,
        "resolution": recipe.training("structure" if role == "structure" else "texture").resolution,
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "dataset": "openmoji",
        "dataset_version": 3,
        **changes,
    }
    return GeneratorContract.model_validate(fields)


def write_generator(folder: Path, role: str, seed: int, **changes: object) -> Path:
    folder.mkdir(parents=True)
    weights = {"w": np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32)}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", {"seed": seed})
    contract(role, **changes).save(folder)
    return folder


def write_pair(folder: Path, seed: int, **texture_changes: object) -> dict[str, Path]:
    """A structure folder, a texture folder and a pair folder of both, under `folder`."""
    structure = write_generator(folder / "structure", "structure", seed)
    texture = write_generator(folder / "texture", "texture", seed + 1, **texture_changes)
    pair = folder / f"pair-{seed}"
    for generator in (structure, texture):
        shutil.copytree(generator, pair / generator.name, ignore=shutil.ignore_patterns("contract.json"))
    contracts = {role: read_json(folder / role / "contract.json") for role in ("structure", "texture")}
    write_json(pair / "model_index.json", {"_class_name": "PanGuDrawPipeline", "contracts": contracts})
    return {"structure": structure, "texture": texture, "pair": pair}


def evaluation(places: dict[str, Path]) -> dict[str, object]:
    return {
        "pair_id": places["pair"].name,
        "pair": str(places["pair"]),
        "metrics": {"retrieval_top1": 0.25},
        "protocol": {"name": "retrieval"},
        "protocol_hash": "c" * 16,
        "already_done": False,
    }
