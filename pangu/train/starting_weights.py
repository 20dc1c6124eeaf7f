"""The network that a job starts from, pinned in its run folder, so that every worker and every attempt starts from the same."""

import copy
import shutil
from pathlib import Path
from typing import Any

from pangu.config import InitialWeights, Recipe, Role, RoleTraining
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import Encoders
from pangu.errors import UserError
from pangu.models.controlnet import add_control, sees_control
from pangu.models.denoisers import adapted_layers, load_denoiser
from pangu.models.init_weights import Resolve, initial_denoiser
from pangu.models.lora import add_lora, fuse_lora, has_lora, save_lora
from pangu.train.ema import Ema

FOLDER = "initial"
LORA_FOLDER = "lora"


def pin_initial(
    run_folder: Path,
    recipe: Recipe,
    role: Role,
    contract: GeneratorContract,
    encoders: Encoders,
    earlier: Path | None = None,
    resolve: Resolve | None = None,
) -> None:
    """Copy the weights that `recipe.init_from` names, or those of the `earlier` generator, into the run folder, once.

    An alias that moves, or a folder that changes, between two attempts of a run then changes nothing.

    Raises:
        UserError: the weights are not there, or do not fit what the run trains.
    """
    folder = run_folder / FOLDER
    start = InitialWeights(source=str(earlier)) if earlier else recipe.init_from
    if start is None or folder.is_dir():
        return
    network = _network(recipe.model_copy(update={"init_from": start}), role, contract, encoders, resolve)
    temporary = folder.with_name(f".{FOLDER}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    network.save_pretrained(temporary, safe_serialization=True)
    temporary.rename(folder)


def starting_network(
    run_folder: Path, recipe: Recipe, role: Role, contract: GeneratorContract, encoders: Encoders
) -> Any:
    """What step 0 begins with: pinned weights or random ones, with a fresh adapter where the recipe asks for one."""
    folder = run_folder / FOLDER
    if folder.is_dir():
        network = load_denoiser(folder)
    elif recipe.init_from is not None:
        raise UserError(f"The run folder {run_folder} lacks its pinned weights; start it with `pangu train`.")
    else:
        network = _network(recipe, role, contract, encoders)
    if recipe.lora is not None:
        add_lora(network, adapted_layers(recipe.lora, network), recipe.seed)
    if sees_control(role):
        return add_control(network, encoders.spatial_factor, recipe.seed)
    return network


def teacher_of(run_folder: Path, training: RoleTraining) -> Any:
    """Whom a distilled job follows: the weights that it starts from. None for other jobs."""
    return None if training.distillation is None else load_denoiser(run_folder / FOLDER)


def export_generator(folder: Path, network: Any, ema: Ema, index: int, contract: GeneratorContract) -> None:
    """The generator folder: running mean `index` as diffusers saves it, and the interval contract.

    An adapter is also saved by itself, in `lora/`; the network has it fused. Of a controlled UNet the ControlNet is saved.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with ema.applied(index):
        whole = network
        if has_lora(network):
            save_lora(network, contract, temporary / LORA_FOLDER)
            whole = copy.deepcopy(network)
            fuse_lora(whole)
        whole.eval().save_pretrained(temporary, safe_serialization=True)
    contract.save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _network(
    recipe: Recipe, role: Role, contract: GeneratorContract, encoders: Encoders, resolve: Resolve | None = None
) -> Any:
    channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
    return initial_denoiser(recipe, role, *channels, contract, resolve)
