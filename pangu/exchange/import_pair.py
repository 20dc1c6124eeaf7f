"""`pangu import`: a pipeline of others becomes a pair folder of the home, with contracts, and a recipe that trains its halves."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pangu.config import ROLES, AutoencoderSource, InitialWeights, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import Encoders
from pangu.data.encode.encoders import describe
from pangu.data.propose.start_from import adapter_recipe
from pangu.errors import UserError
from pangu.exchange.experts import HANDOVER, ExpertOnDisk, read_experts, with_single_files
from pangu.exchange.network_weights import load_network
from pangu.exchange.transformer_recipe import told_guidance, transformer_recipe
from pangu.models.autoencoders import autoencoder_hash, load_autoencoder
from pangu.models.denoisers import FAMILIES, condition_of, family_of, latent_channels
from pangu.models.families.family import MASKED, TOLD_GUIDANCE
from pangu.models.text import TextTower, load_text_tower
from pangu.models.whole import is_whole_pipeline
from pangu.pipelines.assemble import join, join_experts, save_pair
from pangu.pipelines.experts_pipeline import PLACES
from pangu.storage import Home, read_json, write_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
REQUEST_FILE = "imported.json"


class ImportedPair(BaseModel):
    """What `pangu import` made. intervals: of timesteps, by role; recipe: a file that trains the halves from here; where texture
    reads text by encoders of its own, structure alone, and `texture_recipe` trains texture.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    pair: str
    intervals: dict[str, str]
    recipe: str
    texture_recipe: str = Field(
        "", description="Of a texture half with text encoders of its own", exclude_if=lambda value: not value
    )
    already_done: bool = False


def import_pair(
    source: str,
    name: str,
    home: Home,
    boundary: int | None = None,
    refiner: str | None = None,
    handover: float = HANDOVER,
    resolution: int | None = None,
    guidance: float | None = None,
    weights: Sequence[str] = (),
) -> ImportedPair:
    """Open a pipeline folder of diffusers as the pair `name` of the home, which appears as a whole or not at all.

    boundary: the timestep at which a pipeline with one network is split: both halves start from its weights. refiner: a second
    pipeline folder, whose network takes over when `handover` of the steps are done. resolution: side of the pictures of a
    transformer that does not say it, px. guidance: the scale that a guidance-distilled network is told (FLUX.1-dev); None: what
    its pipeline tells it. weights: single files in the layout of the original code, in place of the weights in the folder: one
    for both halves, or structure's and texture's.

    Raises:
        UserError: there is no second expert or no boundary, the halves do not share latents, noise levels or text, their weights
            are not whole, or another pair has the name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name of a pair; take letters, digits, dots, hyphens and underscores.")
    folder = home.pair(name)
    recipe_file, texture_file = (folder.with_name(f"{name}{end}.recipe.json") for end in ("", ".texture"))
    places = [_folder(place) for place in (source, refiner) if place is not None]
    files = [str(Path(file).expanduser().absolute()) for file in weights]
    experts = with_single_files(read_experts(places[0], boundary, places[1] if refiner else None, handover), files)
    request: dict[str, Any] = {"experts": [[expert.name, expert.low, expert.high] for expert in experts]}
    told = [told_guidance(expert, guidance) for expert in experts]
    said = {"resolution": resolution, "told_guidance": guidance, "weights": files or None}
    request |= {key: value for key, value in said.items() if value is not None}
    intervals = dict(zip(ROLES, (f"[{expert.low}, {expert.high})" for expert in experts), strict=True))
    done = ImportedPair(name=name, pair=str(folder), intervals=intervals, recipe=str(recipe_file))
    if folder.exists():
        if is_whole_pipeline(folder) and _request_of(folder) == request and recipe_file.is_file():
            own = str(texture_file) if texture_file.is_file() else ""
            return done.model_copy(update={"already_done": True, "texture_recipe": own})
        raise UserError(f"There is a pair '{name}' in {folder.parent} already; choose another name.")
    recipes = _recipes(name, experts, resolution)
    pair, contracts = _joined(experts, recipes, told)
    fresh = folder.with_name(f".{folder.name}.new")
    save_pair(pair, fresh)
    for role in ROLES:
        contracts[role].save(fresh / role)
    write_json(fresh / REQUEST_FILE, request)
    write_json(recipe_file, _from_here(recipes["structure"], folder).model_dump(mode="json"))
    if "text_encoder_of_texture" in pair.components and pair.components["text_encoder_of_texture"] is not None:
        write_json(texture_file, _from_here(recipes["texture"], folder, "_of_texture").model_dump(mode="json"))
        done = done.model_copy(update={"texture_recipe": str(texture_file)})
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


def _recipes(name: str, experts: list[ExpertOnDisk], resolution: int | None) -> dict[Role, Recipe]:
    """For each half a recipe with the encoders and noise levels of its pipeline, and the boundary.

    Raises:
        UserError: the noise levels or the way of reading text of a pipeline are not known here, or both have other noise levels.
    """
    found = []
    for expert in experts:
        scheduler = str((read_json(Path(expert.root) / "scheduler/scheduler_config.json")).get("_class_name"))
        of_unet = expert.network == FAMILIES["unet"].network_class
        if of_unet and scheduler.startswith("FlowMatch"):
            raise UserError(f"{expert.root} has a UNet under a {scheduler}, whose flow is not imported.")
        found.append(adapter_recipe(expert.root, on_gpu=False) if of_unet else transformer_recipe(expert, resolution))
    first, last = found
    for field, ours in first.schedule.model_dump().items():
        if (theirs := getattr(last.schedule, field)) != ours:
            raise UserError(
                f"{experts[0].name} was trained with {field} {ours}, but {experts[1].name} with {theirs}; both need the same."
            )
    changes: dict[str, Any] = {"name": f"imported-{name}", "boundary": experts[0].low}
    return {role: recipe.model_copy(update=changes) for role, recipe in zip(ROLES, found, strict=True)}


def _joined(
    experts: list[ExpertOnDisk], recipes: dict[Role, Recipe], told: list[float | None]
) -> tuple[Any, dict[Role, GeneratorContract]]:
    """The pair, in memory; a half whose pipeline reads text in another way keeps its own text encoders.

    told: the scale of guidance that each network is told, if it is.
    """
    first, last = recipes.values()
    autoencoder = load_autoencoder(first.autoencoder)
    towers: dict[Role, list[TextTower]] = {"structure": [load_text_tower(source) for source in first.text_encoders]}
    if experts[0].root != experts[1].root:
        hashes = [autoencoder_hash(found) for found in (autoencoder, load_autoencoder(last.autoencoder))]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{experts[0].root} has autoencoder {hashes[0]}, but {experts[1].root} {hashes[1]}: their latents differ, so "
                "they can not take turns in one trajectory."
            )
        towers["texture"] = [load_text_tower(source) for source in last.text_encoders]
        if _ways_of(towers["texture"], last) == _ways_of(towers["structure"], first):
            del towers["texture"]
    side, scored = first.structure.resolution, False
    contracts: dict[Role, GeneratorContract] = {}
    networks: dict[Role, Any] = {}
    for expert, scale, (role, recipe) in zip(experts, told, recipes.items(), strict=True):
        encoders = describe(autoencoder, towers.get(role, towers["structure"]), recipe.max_tokens)
        contracts[role] = encoders.contract(recipe, role).model_copy(update={"resolution": side})
        networks[role] = load_network(
            Path(expert.root) / expert.subfolder, Path(expert.weights) if expert.weights else None
        )
        _check_reads(expert, networks[role], encoders)
        scored |= _is_scored(networks[role], encoders)
        if any(source.join and source.join.padding == "masked" for source in recipe.text_encoders):
            networks[role].register_to_config(**{MASKED: True})
        if scale is not None:
            networks[role].register_to_config(**{TOLD_GUIDANCE: scale})
    own: dict[Role, list[TextTower]] = {"texture": towers["texture"]} if "texture" in towers else {}
    arguments = contracts, autoencoder, towers["structure"], first
    if not own and not scored:
        return join(networks["structure"], networks["texture"], *arguments), contracts
    return join_experts(networks, *arguments, own=own), contracts


def _ways_of(towers: list[TextTower], recipe: Recipe) -> tuple[Any, ...]:
    return tuple(tower.hash for tower in towers), recipe.max_tokens


def _is_scored(network: Any, encoders: Encoders) -> bool:
    return family_of(network).name == "unet" and condition_of(network.config, encoders.pooled_channels) == "score"


def _check_reads(expert: ExpertOnDisk, network: Any, encoders: Encoders) -> None:
    """Raises UserError if a network takes other latents or other text than the encoders beside it give."""
    family, config = family_of(network), network.config
    given = latent_channels(network)
    if expert.channels != encoders.latent_channels or given != encoders.latent_channels:
        raise UserError(
            f"{expert.name} takes {expert.channels} and gives {given} channels, but the autoencoder has "
            f"{encoders.latent_channels}; a text-to-image network is needed."
        )
    for what, theirs, ours in (
        ("text", family.text_channels(config), encoders.context_channels),
        ("pooled text", family.pooled_channels(config), encoders.pooled_channels),
    ):
        if theirs is not None and theirs != ours:
            raise UserError(
                f"{expert.name} attends to {theirs} channels of {what}, but the text encoders beside it give {ours}."
            )
    if family.name == "unet":
        condition_of(config, encoders.pooled_channels)


def _from_here(recipe: Recipe, folder: Path, of: str = "") -> Recipe:
    """The same recipe with everything from the pair folder: an original that goes or changes matters no longer.

    of: what the names of its text encoders end with, before the number of those behind the first.
    """
    names = [f"text_encoder{of}{place}" for place in PLACES]
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
