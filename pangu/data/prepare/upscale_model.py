"""Makes images larger by a network that the user brings: any architecture that spandrel reads, on CUDA or the CPU.

spandrel (MIT) tells from the weights which network they belong to: ESRGAN, SPAN, SwinIR, HAT, DAT and some forty more. Weights
come as safetensors only, because the other formats that it reads are pickles.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pangu.data.images import ImageHWC
from pangu.data.prepare.tiles import by_tiles
from pangu.errors import UserError
from pangu.storage import sha256_of

TILE = 256
"""Side of the part of an image that is enlarged at a time, px: ESRGAN takes two gigabytes for one."""
SEEN = 32
"""Overlap of tiles, px. Transformers look further, but hardly: their attention is within windows."""


class LoadedUpscaler:
    """A super-resolution network from a file of weights.

    Raises:
        UserError: the file is no safetensors, of no known architecture, or of one that does not enlarge RGB images; spandrel is
            missing; or there is no CUDA device.
    """

    def __init__(self, file: Path, device: str) -> None:
        network = _network(file, _state(file))
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("upscale.device is cuda, but there is no CUDA device here; set it to cpu or auto.")
        on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self._network = network.to(torch.device("cuda" if on_cuda else "cpu")).float().eval()
        self.factor, self.name = int(network.scale), f"{file.stem}@{file_digest(file)}"
        self._tile = sys.maxsize // 2 if network.tiling.name == "INTERNAL" else TILE

    def upscale(self, image_hwc: ImageHWC) -> ImageHWC:
        return by_tiles(image_hwc, self.factor, self._enlarge, self._tile, SEEN)

    @torch.inference_mode()
    def _enlarge(self, image_hwc: ImageHWC) -> ImageHWC:
        image_chw = torch.from_numpy(np.ascontiguousarray(image_hwc.transpose(2, 0, 1)))
        found_chw = self._network(image_chw[None].to(self._network.device).float() / 255)[0]
        return (found_chw * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def file_digest(file: Path) -> str:
    """8 hex digits of the weights: other weights under the same name are another upscaler."""
    try:
        return sha256_of(file)[:8]
    except OSError as error:
        raise UserError(f"upscale.model {file} cannot be read ({error.strerror}); correct the path.") from error


def _state(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        raise UserError(f"upscale.model {file} must be a .safetensors file; convert its weights first.")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"upscale.model {file} cannot be read as safetensors: {error}.") from error


def _network(file: Path, state: dict[str, Any]) -> Any:
    spandrel = _spandrel()
    try:
        network = spandrel.ModelLoader().load_from_state_dict(state)
    except (spandrel.UnsupportedModelError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"upscale.model {file} holds no network that spandrel knows; name another file.") from error
    kind = f"{network.architecture.name}, {network.purpose}, x{network.scale}"
    if network.purpose != "SR" or network.scale < 2 or network.input_channels != 3 or network.output_channels != 3:
        raise UserError(f"upscale.model {file} ({kind}) does not enlarge RGB images; name a super-resolution network.")
    return network


def _spandrel() -> Any:
    if importlib.util.find_spec("spandrel") is None:
        raise UserError("upscale.model needs the package spandrel; install PanGu with its extra `gpu`.")
    with _torchvision_or_none():
        import spandrel

    return spandrel


@contextmanager
def _torchvision_or_none() -> Iterator[None]:
    """Let spandrel be imported where torchvision is not installed, as beside the CPU build of torch, which has no torchvision.

    Two of its networks import three names of torchvision's; neither enlarges anything (LaMa paints over gaps, RestoreFormer mends
    faces). The names are None while spandrel is imported, and nobody else sees them afterwards.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return
    absent = {name: ModuleType(name) for name in names}
    vars(absent[names[-1]]).update(InterpolationMode=None, rotate=None, normalize=None)
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
