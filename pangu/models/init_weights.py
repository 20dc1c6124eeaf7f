"""What a generator starts from: random weights, or those of a generator, a pair, or any text-to-image network of diffusers.

Owns the checks that keep a run from tuning weights that mean something else. Knows no registry: who does passes a resolver.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from pangu.config import ROLES, InitialWeights, NoiseSchedule, Recipe, Role
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.models.controlnet import sees_control
from pangu.models.denoisers import build_denoiser, family_named, load_denoiser, sees_lower
from pangu.models.families.family import DenoiserFamily
from pangu.models.lora import ADAPTER, check_contract, fitted, forget_fused, fuse_lora, put_adapter
from pangu.models.lora_files import find_weights as find_adapter
from pangu.models.quantised import check_plain
from pangu.models.single_files import network_from_file
from pangu.models.sources import locate, read_config

STARTER = "starter_pair"
"""Folder under `pangu/assets` that 'embedded' means here."""
MUST_AGREE = ("autoencoder_hash", "text_encoder_hashes", "latent_scaling", "latent_shift")

Resolve = Callable[[str], Path]
"""A registry URI (models:/...) -> the folder of that pair on this machine."""


@dataclass(frozen=True)
class FoundWeights:
    """A network on disk or on the hub, and what is known of its training."""

    root: str
    subfolder: str | None
    contract: GeneratorContract | None

    @property
    def name(self) -> str:
        return f"{self.root}/{self.subfolder}" if self.subfolder else self.root


def is_registered(source: str) -> bool:
    """Whether a source names a pair in the model registry, which a resolver must fetch first."""
    return source.startswith("models:/")


def initial_denoiser(
    recipe: Recipe,
    role: Role,
    latent_channels: int,
    context: int,
    pooled: int,
    contract_of_run: GeneratorContract | None = None,
    resolve: Resolve | None = None,
) -> Any:
    """The network of `role` at step 0: random from the recipe's seed, the same for each role, or what `init_from` names.

    `context` and `pooled` are channels of the text tokens and the pooled text. `contract_of_run` is what the run will write,
    and needed with `init_from`.

    Raises:
        UserError: the weights are not there, or do not fit the encoders or the schedule of the run.
    """
    if recipe.init_from is not None:
        assert contract_of_run is not None, "weights are checked against the contract of the run"
        channels = latent_channels, context, pooled
        family = family_named(recipe.denoiser_of(role).family)
        return pretrained_denoiser(recipe.init_from, *channels, contract_of_run, resolve, recipe.seed, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_denoiser(recipe.denoiser_of(role), latent_channels, context, pooled, lower=sees_lower(role))


def pretrained_denoiser(
    start: InitialWeights,
    latent_channels: int,
    context: int,
    pooled: int,
    contract_of_run: GeneratorContract,
    resolve: Resolve | None = None,
    seed: int = 0,
    family: DenoiserFamily | None = None,
) -> Any:
    """The network of `family`, a UNet if nothing is said, that `start` names, in float32; its own configuration decides the rest.

    With `new_latents` its first and last layer are drawn from `seed`, for the channels of another autoencoder.

    The time interval that it was trained on may differ from that of the run: a common start for both halves is the point.
    A later stage of a cascade may start from a UNet that has seen no lower image: its new input channels begin at zero.

    Raises:
        UserError: as `initial_denoiser`.
    """
    family, role = family or family_named("unet"), contract_of_run.role
    found = find_weights(start, role, resolve, family)
    config = read_config(found.root, _file(found.subfolder, "config.json"))
    if config is None or config.get("_class_name") != family.network_class:
        what = "nothing" if config is None else config.get("_class_name") or "a configuration without a class"
        raise UserError(
            f"init_from: {found.name} holds {what}, but a {family.network_class} is needed; name its folder, with subfolder, or "
            f"set denoiser.family, which is {family.name}."
        )
    _check_schedule(found, contract_of_run.schedule)
    _check_contract(found, contract_of_run, start.new_latents)
    if not start.new_latents:
        family.check_latents(config, latent_channels, sees_lower(role), found.name)
    family.check_text(config, context, pooled, found.name)
    check_plain(config, f"init_from: {found.name}", "trained")
    if start.weights:
        single = Path(start.weights).expanduser()
        network = network_from_file(found.root, found.subfolder, single, torch.float32)
    else:
        network = load_denoiser(found.root, found.subfolder)
    if start.adapter:
        _fuse_adapter(network, Path(start.adapter).expanduser(), contract_of_run)
    if start.new_latents:
        return family.with_new_latents(network, latent_channels, sees_lower(role), seed)
    widen = sees_lower(role) and config["in_channels"] == latent_channels
    return with_lower_channels(network) if widen else network


def find_weights(
    start: InitialWeights, role: Role, resolve: Resolve | None = None, family: DenoiserFamily | None = None
) -> FoundWeights:
    """Where the network for `role` lies: its own half of a pair, the part of a diffusers pipeline, or the folder itself.

    family: a UNet's if nothing is said.

    Raises:
        UserError: nothing is there, or it does not say which of its networks is meant.
    """
    if is_registered(start.source):
        if resolve is None:
            raise UserError(f"init_from: {start.source} is in the model registry; fetch it first and name its folder.")
        root, subfolder = str(resolve(start.source)), start.subfolder
    else:
        root, subfolder = locate(start.source, STARTER), start.subfolder
        if start.source == "embedded" and not Path(root).is_dir():
            raise UserError("init_from: this installation carries no embedded pair; name a folder or a hub id.")
    index = read_config(root, "model_index.json")
    parent = Path(root).parent
    if index is None and subfolder is None and Path(root).is_dir() and (parent / "model_index.json").is_file():
        # A network inside a pipeline folder: what is known of it stands beside it.
        index, root, subfolder = read_config(str(parent), "model_index.json"), str(parent), Path(root).name
    if index is None:
        return FoundWeights(root, subfolder, _own_contract(root, subfolder))
    if "contracts" in index:
        stages = list(index["contracts"] or ())
        alone = len(stages) == 1 and "unet" in index
        return _part_of_own(root, index, *(("unet", stages[0]) if alone else _half(root, subfolder or role, stages)))
    family = family or family_named("unet")
    if subfolder is None and family.part not in index:
        raise UserError(
            f"init_from: {root} is a {index.get('_class_name')} without a {family.label}; a {family.network_class} is needed, or "
            f"another denoiser.family."
        )
    return FoundWeights(root, subfolder or family.part, None)


def _fuse_adapter(network: Any, source: Path, run: GeneratorContract) -> None:
    """Make an adapter part of the weights; one with a contract must have been trained for the timesteps of the run.

    Raises:
        UserError: it is not there, does not fit, or only a part of it does.
    """
    file = find_adapter(source)
    if (file.parent / CONTRACT_FILE).is_file():
        check_contract(GeneratorContract.load(file.parent), run, str(source))
    put_adapter(network, ADAPTER, fitted(file, network, run, str(source)))
    fuse_lora(network)
    forget_fused(network)


def with_lower_channels(unet: Any) -> Any:
    """The same UNet with twice the input channels; the new ones have zero weights, so its predictions are the same."""
    old = unet.conv_in
    new = torch.nn.Conv2d(2 * old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    weight = torch.cat([old.weight.data, torch.zeros_like(old.weight)], dim=1)
    new.weight, new.bias = torch.nn.Parameter(weight), old.bias
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)
    return unet


def _half(root: str, half: str, known: Sequence[str]) -> tuple[str, str]:
    """Subfolder and role of one expert of a pipeline of ours; `known` are those that it has."""
    if half not in (known or ROLES):
        names = " or ".join(f"'{name}'" for name in known or ROLES)
        raise UserError(f"init_from: {root} is a pair; set subfolder to {names}, not '{half}'.")
    return half, half


def _part_of_own(root: str, index: dict[str, Any], subfolder: str, role: str) -> FoundWeights:
    """One network of a pipeline folder that the platform wrote, with its contract."""
    try:
        return FoundWeights(root, subfolder, GeneratorContract.model_validate(index["contracts"][role]))
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"init_from: model_index.json of {root} carries no contract of {role}.") from error


def _own_contract(root: str, subfolder: str | None) -> GeneratorContract | None:
    values = read_config(root, _file(subfolder, CONTRACT_FILE)) if Path(root).is_dir() else None
    try:
        return None if values is None else GeneratorContract.model_validate(values)
    except ValidationError as error:
        raise UserError(f"init_from: {_file(subfolder, CONTRACT_FILE)} of {root} is no interval contract.") from error


def _file(subfolder: str | None, name: str) -> str:
    return f"{subfolder}/{name}" if subfolder else name


def _check_contract(found: FoundWeights, run: GeneratorContract, new_latents: bool) -> None:
    must_agree = ("text_encoder_hashes",) if new_latents else MUST_AGREE
    for name in must_agree if found.contract is not None else ():
        theirs, ours = getattr(found.contract, name), getattr(run, name)
        if theirs != ours:
            raise UserError(
                f"init_from: {found.name} was trained with {name} {theirs}, but this run has {ours}; use the encoders that "
                f"it was trained with."
            )
    if found.contract is not None and (lacking := found.contract.words_beyond(run.placeholder_tokens)):
        raise UserError(
            f"init_from: {found.name} was trained with tokens of their own for {lacking}; name them in placeholder_tokens of the "
            f"recipe."
        )
    if found.contract is not None and sees_control(run.role):
        whole = run.interval
        if (found.contract.low, found.contract.high) != (whole.low, whole.high):
            raise UserError(
                f"init_from: {found.name} was trained for t in {found.contract.interval}, but a ControlNet needs a generator "
                f"for all of {whole}; name one that recipe 'single' trained, or one that is no half of a pair."
            )


def _check_schedule(found: FoundWeights, ours: NoiseSchedule) -> None:
    """Raises UserError if the weights are known to have been trained over other noise levels, or to predict something else."""
    theirs = found.contract.schedule.model_dump() if found.contract else scheduler_values(found)
    values = ours.model_dump()
    # A flow's shift says which levels are drawn, not what the network is told of them.
    names = ("prediction_type", "num_train_timesteps") if ours.is_flow else tuple(values)
    for name in names if theirs is not None else ():
        if theirs is not None and theirs.get(name) != (value := values[name]):
            raise UserError(
                f"init_from: {found.name} was trained with schedule.{name} = {theirs.get(name)}, but the recipe says {value}; "
                f"set the recipe's schedule to that of the weights."
            )


def scheduler_values(found: FoundWeights) -> dict[str, Any] | None:
    """The noise schedule that a diffusers pipeline folder says of itself; what it leaves out is its class's default."""
    import inspect

    import diffusers

    config = read_config(found.root, "scheduler/scheduler_config.json")
    if config is None:
        return None
    scheduler = getattr(diffusers, str(config.get("_class_name")), None)
    parameters = inspect.signature(scheduler.__init__).parameters if scheduler is not None else {}
    values: dict[str, Any] = {"rescale_betas_zero_snr": False}  # classes that lack it never rescale
    if str(config.get("_class_name")).startswith("FlowMatch"):
        values["prediction_type"] = "flow_prediction"  # they know nothing else, and do not say so
    values |= {name: parameters[name].default for name in NoiseSchedule.model_fields if name in parameters}
    return values | {name: config[name] for name in NoiseSchedule.model_fields if name in config}
