"""From two generator folders and what they share to one pair folder."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pangu.config import ROLES, Recipe, Role, TextEncoderSource
from pangu.contract import GeneratorContract, check_pair, check_turns, expert_roles
from pangu.data.encode.encoders import describe
from pangu.errors import UserError
from pangu.models.autoencoders import autoencoder_hash, load_autoencoder
from pangu.models.denoisers import build_denoiser, condition_of, family_of, load_denoiser
from pangu.models.families.unet import AESTHETIC_SCORES
from pangu.models.init_weights import Resolve, initial_denoiser
from pangu.models.placeholder_tokens import placeholders, text_towers_of
from pangu.models.schedulers import sampler
from pangu.models.text import TextTower, embed_captions, load_text_tower
from pangu.pipelines.experts_pipeline import PLACES, ExpertsPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.pipelines.text_to_image import TextToImagePipeline

Prompts = Mapping[str, Sequence[str]]
"""Language -> captions."""


def load_generator(folder: Path) -> tuple[Any, GeneratorContract]:
    """The network and the contract of a generator folder.

    Raises:
        UserError: the folder holds no generator.
    """
    contract = GeneratorContract.load(folder)
    return load_denoiser(folder).eval().requires_grad_(False), contract


def assemble_pair(
    structure: Path, texture: Path, recipe: Recipe, folder: Path, prompts: Prompts | None = None
) -> PanGuDrawPipeline:
    """Join two generator folders into the pair folder `folder`, which appears as a whole or not at all.

    `prompts` are captions by language that it proposes to whoever asks what it can draw.

    Raises:
        UserError: the generators do not make a pair, or the recipe's encoders are not the ones they were trained with.
    """
    networks = dict(zip(ROLES, (load_generator(structure), load_generator(texture)), strict=True))
    contracts = {role: contract for role, (_, contract) in networks.items()}
    check_pair(contracts["structure"], contracts["texture"])
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = text_towers_of(recipe)
    for contract in contracts.values():
        check_encoders(contract, autoencoder, towers)
    pair = join(networks["structure"][0], networks["texture"][0], contracts, autoencoder, towers, recipe, prompts)
    save_pair(pair, folder)
    return pair


def join(
    structure: Any,
    texture: Any,
    contracts: dict[Role, GeneratorContract],
    autoencoder: Any,
    towers: list[TextTower],
    recipe: Recipe,
    prompts: Prompts | None = None,
) -> PanGuDrawPipeline:
    """The pipeline of two networks and what they share, in memory."""
    networks: dict[Role, Any] = {"structure": structure, "texture": texture}
    if len(towers) > 2 or any(tower.join is not None for tower in towers):
        return join_experts(networks, contracts, autoencoder, towers, recipe, prompts)
    return PanGuDrawPipeline(**networks, **_shared(contracts, autoencoder, towers, recipe, prompts))


def join_experts(
    networks: Mapping[Role, Any],
    contracts: Mapping[Role, GeneratorContract],
    autoencoder: Any,
    towers: Sequence[TextTower],
    recipe: Recipe,
    prompts: Prompts | None = None,
    own: Mapping[Role, Sequence[TextTower]] | None = None,
    templates: Mapping[Role, str] | None = None,
) -> ExpertsPipeline:
    """The pipeline of two or more networks, in memory. own: text towers of single experts that are not those of structure."""
    own = dict(own or {})
    parts = {name: part for role, its in own.items() for name, part in _towers(its, f"_of_{role}").items()}
    ways: dict[str, dict[str, Any]] = {role: _ways(its) for role, its in own.items()}
    if len(towers) > 2 or any(tower.join is not None for tower in towers):
        ways["structure"] = _ways(towers)
    for role, network in networks.items():
        pooled = embed_captions(own.get(role, towers), [""], contracts[role].max_tokens)[1].shape[-1]
        family = family_of(network)
        if family.name == "unet" and condition_of(network.config, pooled) == "score":
            ways[role] = ways.get(role, _ways(towers)) | {"aesthetic_scores": list(AESTHETIC_SCORES)}
    shared = _shared(contracts, autoencoder, towers, recipe, prompts)
    arguments = {str(role): network for role, network in networks.items()} | shared | parts
    return ExpertsPipeline(
        **arguments, own_text=ways, templates={str(role): text for role, text in (templates or {}).items()}
    )


def _ways(towers: Sequence[TextTower]) -> dict[str, Any]:
    """How text towers read, as `ExpertsPipeline` keeps it."""
    found: dict[str, Any] = {
        "hidden_layers": [tower.hidden_layer for tower in towers],
        "sees_padding": [tower.sees_padding for tower in towers],
    }
    joins = [None if tower.join is None else tower.join.model_dump(mode="json") for tower in towers]
    return found | ({"joins": joins} if any(joins) else {})


def _shared(
    contracts: Mapping[Role, GeneratorContract],
    autoencoder: Any,
    towers: Sequence[TextTower],
    recipe: Recipe,
    prompts: Prompts | None,
) -> dict[str, Any]:
    """The arguments of a pipeline that are no networks."""
    return {
        "vae": autoencoder,
        # A trajectory runs in the levels of its noisiest expert, whatever trained the others.
        "scheduler": sampler(contracts["structure"].schedule),
        **_towers(towers),
        "contracts": {role: contract.model_dump(mode="json") for role, contract in contracts.items()},
        "hidden_layers": [tower.hidden_layer for tower in towers],
        "styles": recipe.styles,
        "sees_padding": [tower.sees_padding for tower in towers],
        "sampling": recipe.sampling.model_dump(),
        "prompts": {language: list(texts) for language, texts in (prompts or {}).items()},
    }


def _towers(towers: Sequence[TextTower], of: str = "") -> dict[str, Any]:
    """Text towers as components. of: what their names end with, before the number of those behind the first."""
    if len(towers) > len(PLACES):
        raise UserError(f"A pair folder holds up to {len(PLACES)} text encoders, but the recipe names {len(towers)}.")
    places = PLACES[: max(2, len(towers))]
    all_there = [*towers, None][: len(places)]
    return {
        f"{kind}{of}{place}": getattr(tower, attribute, None)
        for tower, place in zip(all_there, places, strict=True)
        for kind, attribute in (("tokenizer", "tokenizer"), ("text_encoder", "encoder"))
    }


def assemble_experts(
    generators: Sequence[Path],
    recipe: Recipe,
    folder: Path,
    prompts: Prompts | None = None,
    texts: Mapping[Role, Sequence[TextEncoderSource]] | None = None,
    templates: Mapping[Role, str] | None = None,
) -> ExpertsPipeline:
    """Join two or more generator folders, the noisiest first, into one pipeline folder, which appears as a whole or not at all.

    Args:
        recipe: names the autoencoder, and the text encoders of structure and of all that have none of their own.
        texts: role -> the text encoders that an expert has of its own.
        templates: role -> what it is told, with {} for the prompt.

    Raises:
        UserError: the generators do not make one trajectory, or an encoder is not the one that they were trained with.
    """
    networks, contracts = {}, {}
    for role, place in zip(expert_roles(len(generators)), generators, strict=True):
        networks[role], found = load_generator(place)
        contracts[role] = found.model_copy(update={"role": role})
    check_turns(list(contracts.values()))
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = text_towers_of(recipe)
    own = {role: [load_text_tower(source) for source in sources] for role, sources in (texts or {}).items()}
    for role, contract in contracts.items():
        check_encoders(contract, autoencoder, own.get(role, towers))
    made = join_experts(networks, contracts, autoencoder, towers, recipe, prompts, own, templates)
    save_pair(made, folder)
    return made


def check_encoders(contract: GeneratorContract, autoencoder: Any, towers: list[TextTower]) -> None:
    """Raises UserError if the encoders at hand are not, weight by weight, those of the contract."""
    found = autoencoder_hash(autoencoder)
    if found != contract.autoencoder_hash:
        raise UserError(
            f"The generators were trained on latents of autoencoder {contract.autoencoder_hash}, but this one is {found}."
        )
    hashes = tuple(tower.hash for tower in towers)
    if hashes != contract.text_encoder_hashes:
        raise UserError(
            f"The generators were trained with text encoders {contract.text_encoder_hashes}, but these are {hashes}."
        )
    if lacking := contract.words_beyond(placeholders(towers)):
        raise UserError(
            f"The {contract.role} generator was trained with tokens of their own for {lacking}; name them "
            f"in placeholder_tokens of the recipe."
        )


def save_pair(pair: TextToImagePipeline, folder: Path) -> None:
    """Save beside `folder` and move into place, so that a reader never finds half a pair."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    pair.save_pretrained(temporary, safe_serialization=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def starting_pair(recipe: Recipe, resolve: Resolve | None = None) -> PanGuDrawPipeline:
    """The pair at step 0 of a recipe's trainings: what `init_from` names, or random weights from the recipe's seed.

    Raises:
        UserError: the weights are not there, or do not fit the recipe.
    """

    def network(role: Role, channels: tuple[int, int, int], contract: GeneratorContract) -> Any:
        return initial_denoiser(recipe, role, *channels, contract, resolve)

    return _pair_of(recipe, network)


def untrained_pair(recipe: Recipe, seed: int = 0) -> PanGuDrawPipeline:
    """A pair with random generators: for tests, for measuring speed, and for counting parameters."""

    def network(role: Role, channels: tuple[int, int, int], contract: GeneratorContract) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + ROLES.index(role))
            return build_denoiser(recipe.denoiser_of(role), *channels)

    return _pair_of(recipe, network)


def _pair_of(
    recipe: Recipe, network: Callable[[Role, tuple[int, int, int], GeneratorContract], Any]
) -> PanGuDrawPipeline:
    """The pair of `network(role, channels of latents, text and pooled text, contract)` for both roles, in memory."""
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = text_towers_of(recipe)
    encoders = describe(autoencoder, towers, recipe.max_tokens)
    channels = (encoders.latent_channels, encoders.context_channels, encoders.pooled_channels)
    contracts = {role: encoders.contract(recipe, role) for role in ROLES}
    structure, texture = (network(role, channels, contracts[role]).eval().requires_grad_(False) for role in ROLES)
    return join(structure, texture, contracts, autoencoder, towers, recipe)
