"""The weights of a network's folder as they are stored, checked against its configuration before anything is made of them."""

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pangu.errors import UserError
from pangu.models.single_files import check_weights, network_from_file, network_shape


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
    check_weights(found, shape, str(folder))
    return found


def load_network(folder: Path, file: Path | None = None) -> Any:
    """The network of a folder, of any known class, in the dtype that it is stored in, for use without gradients.

    file: a single file whose weights take the place of the folder's.

    Raises:
        UserError: as `network_shape`, `stored_weights` and `single_file_weights`.
    """
    if file is not None:
        return network_from_file(folder, None, file).eval().requires_grad_(False)
    network = network_shape(folder)
    weights = stored_weights(folder, network)
    if isinstance(network, UNet2DConditionModel):
        network.load_state_dict(weights, assign=True)
    else:
        # Tables that are made with a network and not stored, as those of positions, are not there on the meta device.
        dtype = next(iter(weights.values())).dtype
        network = type(network).from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    return network.eval().requires_grad_(False)
