"""The weights of a network's folder as they are stored, checked against its configuration before anything is made of them."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pangu.errors import UserError
from pangu.models.denoisers import FAMILIES, family_of, family_of_class
from pangu.models.quantised import check_plain
from pangu.storage import read_json


def network_shape(folder: Path) -> Any:
    """The network that a folder's configuration describes, on the meta device: names and shapes, no memory.

    Raises:
        UserError: there is no configuration, or one of a class that is not known here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json; name a folder of a network as diffusers saves it.")
    config = read_json(path)
    family = family_of_class(str(config.get("_class_name")))
    if family is None:
        known = ", ".join(each.network_class for each in FAMILIES.values())
        raise UserError(f"{folder} is a {config.get('_class_name')}, but the networks that are known are {known}.")
    check_plain(config, str(folder), "imported or exported")
    with torch.device("meta"):
        return family.network_type.from_config(config)


def stored_weights(folder: Path, shape: Any) -> dict[str, Tensor]:
    """Every weight in the dtype that it is stored in; exactly those of `shape`.

    Raises:
        UserError: weights are missing, too many or of another shape, or the file is no safetensors.
    """
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    plain = [file for file in files if not file.stem.split(".", 1)[1:]]
    if not files:
        raise UserError(f"{folder} has no diffusion_pytorch_model.safetensors; only safetensors are read.")
    found: dict[str, Tensor] = {}
    for file in plain or files:
        try:
            found |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} can not be read: {str(error).splitlines()[0]}.") from error
    expected = {name: tuple(tensor.shape) for name, tensor in shape.state_dict().items()}
    if missing := [name for name in expected if name not in found]:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(expected)} weights of its {family_of(shape).label}, such as {missing[0]}."
        )
    if extra := [name for name in found if name not in expected]:
        raise UserError(
            f"{folder} has {len(extra)} weights that its configuration has no place for, such as {extra[0]}."
        )
    if wrong := [name for name in expected if tuple(found[name].shape) != expected[name]]:
        name = wrong[0]
        raise UserError(
            f"{folder}: {name} has the shape {tuple(found[name].shape)}, but the configuration says {expected[name]}."
        )
    return found


def load_network(folder: Path) -> Any:
    """The network of a folder, of any known class, in the dtype that it is stored in, for use without gradients.

    Raises:
        UserError: as `network_shape` and `stored_weights`.
    """
    network = network_shape(folder)
    weights = stored_weights(folder, network)
    if isinstance(network, UNet2DConditionModel):
        network.load_state_dict(weights, assign=True)
    else:
        # Tables that are made with a network and not stored, as those of positions, are not there on the meta device.
        dtype = next(iter(weights.values())).dtype
        network = type(network).from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    return network.eval().requires_grad_(False)
