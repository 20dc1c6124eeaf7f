"""A network whose weights lie in one safetensors file in the layout of its original code, as the community hands them on.

Such a file has no configuration: it stands in place of the weights of a folder of diffusers, whose `config.json` says the shape.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pangu.errors import UserError
from pangu.models.denoisers import FAMILIES, family_of, family_of_class
from pangu.models.original_transformers import from_original
from pangu.models.quantised import check_plain
from pangu.models.sources import read_config


def network_shape(place: str | Path, subfolder: str | None = None) -> Any:
    """The network that a folder's or a hub repository's configuration describes, on the meta device: names and shapes, no memory.

    Raises:
        UserError: there is no configuration, or one of a class that is not known here.
    """
    folder = f"{place}/{subfolder}" if subfolder else str(place)
    config = read_config(str(place), f"{subfolder}/config.json" if subfolder else "config.json")
    if config is None:
        raise UserError(f"{folder} has no config.json; name a folder of a network as diffusers saves it.")
    family = family_of_class(str(config.get("_class_name")))
    if family is None:
        known = ", ".join(each.network_class for each in FAMILIES.values())
        raise UserError(f"{folder} is a {config.get('_class_name')}, but the networks that are known are {known}.")
    check_plain(config, folder, "imported or exported")
    with torch.device("meta"):
        return family.network_type.from_config(config)


def check_weights(found: Mapping[str, Tensor], shape: Any, label: str) -> None:
    """Raises UserError if weights are missing, too many or of another shape than those of the network `shape`."""
    expected = {name: tuple(tensor.shape) for name, tensor in shape.state_dict().items()}
    if missing := [name for name in expected if name not in found]:
        raise UserError(
            f"{label} lacks {len(missing)} of {len(expected)} weights of its {family_of(shape).label}, such as {missing[0]}."
        )
    if extra := [name for name in found if name not in expected]:
        raise UserError(
            f"{label} has {len(extra)} weights that its configuration has no place for, such as {extra[0]}."
        )
    if wrong := [name for name in expected if tuple(found[name].shape) != expected[name]]:
        name = wrong[0]
        raise UserError(
            f"{label}: {name} has the shape {tuple(found[name].shape)}, but the configuration says {expected[name]}."
        )


def single_file_weights(file: Path, shape: Any) -> dict[str, Tensor]:
    """The weights of a single file by the names of diffusers, exactly those of `shape`; 8-bit floats become bfloat16.

    Raises:
        UserError: the file is none, in no layout that is known for that class, or of another network.
    """
    if not file.is_file():
        raise UserError(f"There is no file of weights at {file}.")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no .safetensors file, and nothing else is read: a pickle may run code.")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} can not be read: {str(error).splitlines()[0]}.") from error
    if scales := [
        name for name in tensors if name.endswith(("scale_weight", "weight_scale", "scaled_fp8", "quant_state"))
    ]:
        raise UserError(
            f"{file} is quantised, by scales such as {scales[0]}; take the file in bf16, fp16 or plain fp8."
        )
    found = from_original(shape, tensors, str(file))
    check_weights(found, shape, str(file))
    small = (torch.float8_e4m3fn, torch.float8_e5m2)
    return {name: each.to(torch.bfloat16) if each.dtype in small else each for name, each in found.items()}


def network_from_file(place: str | Path, subfolder: str | None, file: Path, dtype: torch.dtype | None = None) -> Any:
    """The network of a folder's configuration with the weights of a single file, in `dtype` (None: that of the file).

    Raises:
        UserError: as `network_shape` and `single_file_weights`.
    """
    shape = network_shape(place, subfolder)
    weights = single_file_weights(file, shape)
    # Tables that are made with a network and not stored, as those of positions, are not there on the meta device.
    network = type(shape).from_config(shape.config)
    network.load_state_dict({name: tensor.to(dtype or tensor.dtype) for name, tensor in weights.items()}, assign=True)
    return network
