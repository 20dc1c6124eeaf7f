"""`pangu import`: a pipeline of others becomes a pair folder of the home, with contracts, and a recipe that trains its halves."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pangu.config import ROLES, AutoencoderSource, InitialWeights, Recipe
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import Encoders
from pangu.data.encode.encoders import describe
from pangu.data.propose.start_from import adapter_recipe
from pangu.errors import UserError
from pangu.exchange.experts import HANDOVER, ExpertOnDisk, read_experts
from pangu.exchange.network_weights import UNET, load_stored
from pangu.models.autoencoders import autoencoder_hash, load_autoencoder
from pangu.models.denoisers import condition_of
from pangu.models.text import load_text_tower
from pangu.models.whole import is_whole_pipeline
from pangu.pipelines.assemble import join, save_pair
from pangu.storage import Home, read_json, write_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
REQUEST_FILE = "imported.json"
AESTHETIC_NUMBERS = 5
"""Beside the pooled text: original size, corner of the crop, and SDXL's score of aesthetics (arXiv 2307.01952)."""


class ImportedPair(BaseModel):
    """What `pangu import` made. intervals: of timesteps, by role; recipe: a file that trains the halves from here."""

    model_config = ConfigDict(frozen=True)

    name: str
    pair: str
    intervals: dict[str, str]
    recipe: str
    already_done: bool = False


def import_pair(
    source: str,
    name: str,
    home: Home,
    boundary: int | None = None,
    refiner: str | None = None,
    handover: float = HANDOVER,
) -> ImportedPair:
    """Open a pipeline folder of diffusers as the pair `name` of the home, which appears as a whole or not at all.

    boundary: the timestep at which a pipeline with one UNet is split: both halves start from its weights. refiner: a second
    pipeline folder, whose UNet takes over when `handover` of the steps are done.

    Raises:
        UserError: there is no second expert or no boundary, the halves do not share latents, noise levels or text, their weights
            are not whole, or another pair has the name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name of a pair; take letters, digits, dots, hyphens and underscores.")
    folder = home.pair(name)
    recipe_file = folder.with_name(f"{name}.recipe.json")
    places = [_folder(place) for place in (source, refiner) if place is not None]
    experts = read_experts(places[0], boundary, places[1] if refiner else None, handover)
    request = {"experts": [[expert.name, expert.low, expert.high] for expert in experts]}
    intervals = dict(zip(ROLES, (f"[{expert.low}, {expert.high})" for expert in experts), strict=True))
    done = ImportedPair(name=name, pair=str(folder), intervals=intervals, recipe=str(recipe_file))
    if folder.exists():
        if is_whole_pipeline(folder) and _request_of(folder) == request and recipe_file.is_file():
            return done.model_copy(update={"already_done": True})
        raise UserError(f"There is a pair '{name}' in {folder.parent} already; choose another name.")
    recipe = _recipe(places[0], name, experts)
    pair, contracts = _joined(experts, recipe)
    fresh = folder.with_name(f".{name}.new")
    save_pair(pair, fresh)
    for role in ROLES:
        contracts[role].save(fresh / role)
    write_json(fresh / REQUEST_FILE, request)
    write_json(recipe_file, _from_here(recipe, folder).model_dump(mode="json"))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return done


def _folder(source: str) -> str:
    path = Path(source).expanduser()
    if not path.is_dir():
        raise UserError(
            f"There is no pipeline folder at {source}; download it first, e.g. with `hf download`, and name its folder."
        )
    return str(path.absolute())


def _request_of(folder: Path) -> Any:
    path = folder / REQUEST_FILE
    return read_json(path) if path.is_file() else None


def _recipe(source: str, name: str, experts: list[ExpertOnDisk]) -> Recipe:
    """A recipe with the encoders and noise levels of the pipeline, and its boundary.

    Raises:
        UserError: a network is no UNet, or the pipeline's noise levels are not known here.
    """
    other = next((expert for expert in experts if expert.network != UNET), None)
    if other is not None:
        raise UserError(
            f"{other.name} is a {other.network} for t in [{other.low}, {other.high}), but the halves of a pair folder are "
            f"{UNET}s; such an expert can not be imported yet."
        )
    recipes = [adapter_recipe(root, on_gpu=False) for root in dict.fromkeys(expert.root for expert in experts)]
    for expert in experts:
        scheduler = str((read_json(Path(expert.root) / "scheduler/scheduler_config.json")).get("_class_name"))
        if scheduler.startswith("FlowMatch"):
            raise UserError(f"{expert.root} has a UNet under a {scheduler}, whose flow is not imported.")
    first, last = recipes[0], recipes[-1]
    for field, ours in first.schedule.model_dump().items():
        if (theirs := getattr(last.schedule, field)) != ours:
            raise UserError(
                f"{experts[0].name} was trained with {field} {ours}, but {experts[1].name} with {theirs}; both need the same."
            )
    _check_shared(experts, first, last)
    return first.model_copy(update={"name": f"imported-{name}", "boundary": experts[0].low})


def _check_shared(experts: list[ExpertOnDisk], first: Recipe, last: Recipe) -> None:
    """Raises UserError if a refiner has other latents, or text encoders of its own."""
    base, refiner = experts
    config = read_json(Path(refiner.root) / refiner.subfolder / "config.json")
    ours = read_json(Path(base.root) / base.subfolder / "config.json")
    added = config.get("projection_class_embeddings_input_dim") or 0
    scored = config.get("addition_embed_type") == "text_time" and _numbers(config) == AESTHETIC_NUMBERS
    if scored or config["cross_attention_dim"] != ours["cross_attention_dim"]:
        score = f" and a score of aesthetics (among {added} added channels)" if scored else ""
        raise UserError(
            f"{refiner.name} reads text of {config['cross_attention_dim']} channels{score}, but {base.name} of "
            f"{ours['cross_attention_dim']}: a pair folder has one set of text encoders for both halves, and lacks a second one"
            f"{' and a place for the score' if scored else ''}."
        )
    if base.root == refiner.root:
        return
    hashes = [autoencoder_hash(load_autoencoder(recipe.autoencoder)) for recipe in (first, last)]
    if hashes[0] != hashes[1]:
        raise UserError(
            f"{base.root} has autoencoder {hashes[0]}, but {refiner.root} {hashes[1]}: their latents differ, so they can not "
            "take turns in one trajectory."
        )
    texts = [[load_text_tower(source).hash for source in recipe.text_encoders] for recipe in (first, last)]
    if texts[0] != texts[1]:
        raise UserError(
            f"{base.root} reads text with {', '.join(texts[0])}, but {refiner.root} with {', '.join(texts[1])}: a pair folder "
            "has one set of text encoders for both halves."
        )


def _numbers(config: Mapping[str, Any]) -> int:
    """How many numbers SDXL's refiner would be told beside its pooled text, which is as wide as its tokens."""
    numbers, rest = divmod(
        config["projection_class_embeddings_input_dim"] - int(config["cross_attention_dim"]),
        config["addition_time_embed_dim"],
    )
    return numbers if not rest else 0


def _joined(experts: list[ExpertOnDisk], recipe: Recipe) -> tuple[Any, dict[Any, GeneratorContract]]:
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    encoders = describe(autoencoder, towers, recipe.max_tokens)
    side = recipe.structure.resolution
    contracts = {role: encoders.contract(recipe, role).model_copy(update={"resolution": side}) for role in ROLES}
    structure, texture = (load_stored(Path(expert.root) / expert.subfolder) for expert in experts)
    for expert, network in zip(experts, (structure, texture), strict=True):
        _check_reads(expert, network.config, encoders)
    return join(structure, texture, contracts, autoencoder, towers, recipe), contracts


def _check_reads(expert: ExpertOnDisk, config: Mapping[str, Any], encoders: Encoders) -> None:
    if expert.channels != encoders.latent_channels or config["out_channels"] != encoders.latent_channels:
        raise UserError(
            f"{expert.name} takes {expert.channels} and gives {config['out_channels']} channels, but the autoencoder has "
            f"{encoders.latent_channels}; a text-to-image UNet is needed."
        )
    if config["cross_attention_dim"] != encoders.context_channels:
        raise UserError(
            f"{expert.name} attends to {config['cross_attention_dim']} channels of text, but the text encoders beside it give "
            f"{encoders.context_channels}."
        )
    condition_of(config, encoders.pooled_channels)


def _from_here(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with everything from the pair folder: an original that goes or changes matters no longer."""
    names = ["text_encoder", "text_encoder_2"]
    texts = [
        source.model_copy(
            update={
                "source": str(folder),
                "subfolder": name,
                "tokenizer_subfolder": name.replace("text_encoder", "tokenizer"),
            }
        )
        for source, name in zip(recipe.text_encoders, names, strict=False)
    ]
    changes = {
        "autoencoder": AutoencoderSource(source=str(folder), subfolder="vae"),
        "text_encoders": tuple(texts),
        "init_from": InitialWeights(source=str(folder)),
    }
    return recipe.model_copy(update=changes)
