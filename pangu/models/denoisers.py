"""The denoiser of a generator, of any family: built from the recipe or loaded, and asked.

What differs between classes of networks stands in `pangu.models.families`.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pangu.config import DenoiserShape, LoraConfig, Role
from pangu.config.denoiser_shapes import GROUP, brought_family
from pangu.contract import Quantised
from pangu.errors import UserError
from pangu.models.families.family import DenoiserFamily, DenoiserInput, config_of
from pangu.models.families.flux import FluxFamily
from pangu.models.families.pixart import PixArtFamily
from pangu.models.families.qwen_image import QwenImageFamily
from pangu.models.families.sana import SanaFamily
from pangu.models.families.sd3 import SD3Family
from pangu.models.families.unet import UNetFamily, condition_of
from pangu.models.families.wan import WanFamily
from pangu.models.families.z_image import ZImageFamily
from pangu.models.quantised import kind_of, loading
from pangu.models.sources import read_config

__all__ = [
    "FAMILIES",
    "adapted_layers",
    "build_denoiser",
    "check_latent_sizes",
    "condition_of",
    "denoise",
    "family_named",
    "family_of",
    "latent_channels",
    "load_denoiser",
    "sees_lower",
    "text_channels",
]

FAMILIES: dict[str, DenoiserFamily] = {
    family.name: family
    for family in (
        UNetFamily(), SD3Family(), PixArtFamily(), SanaFamily(), FluxFamily(), QwenImageFamily(), ZImageFamily(), WanFamily(),
    )
}  # fmt: skip
"""Those of the package, by name."""


def family_named(name: str) -> DenoiserFamily:
    """The family that a recipe names.

    Raises:
        UserError: there is none of that name, or it can not be imported.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    return brought_family(name)()


@lru_cache(maxsize=256)
def family_of_class(name: str) -> DenoiserFamily | None:
    """The family whose networks are of that class, if there is one."""
    found = next((family for family in FAMILIES.values() if family.network_class == name), None)
    outside = () if found else (family_named(point.name) for point in entry_points(group=GROUP))
    return found or next((family for family in outside if family.network_class == name), None)


def family_of(network: Any) -> DenoiserFamily:
    """That of a network; whatever is of no known class is called like a UNet, as a `ControlledUNet` is."""
    return family_of_class(type(getattr(network, "module", network)).__name__) or FAMILIES["unet"]


def sees_lower(role: Role) -> bool:
    """Whether the generators of that role are conditioned on the image of an earlier stage, by channel concatenation."""
    return role in ("cascade_middle", "cascade_final")


def build_denoiser(config: DenoiserShape, latent_channels: int, context: int, pooled: int, lower: bool = False) -> Any:
    """A freshly initialised denoiser for latents of `latent_channels` and text of (`context`, `pooled`) channels.

    With `lower`, the latents of an upsampled image come beside the noisy ones, in as many channels. Wrap in
    `torch.device('meta')` to count a large one without memory.

    Raises:
        UserError: its family has no place for such latents.
    """
    return family_named(config.family).build(config, latent_channels, context, pooled, lower)


def load_denoiser(place: str | Path, subfolder: str | None = None, quantise: Quantised | None = None) -> Any:
    """A network of any family from a folder or hub id of diffusers, in float32; quantised where it is, or by `quantise`.

    Raises:
        UserError: there is none, of no known family, or its file lacks weights, which diffusers would draw at random; or it is
            quantised in a way that this device or installation lacks, or already.
    """
    name = f"{place}/{subfolder}" if subfolder else str(place)
    folder = {"subfolder": subfolder} if subfolder else {}
    said = read_config(str(place), f"{subfolder}/config.json" if subfolder else "config.json") or {}
    family, kind = family_of_class(str(said.get("_class_name"))) or FAMILIES["unet"], kind_of(said, name)
    if kind and quantise:
        raise UserError(f"{name} is quantised ({kind}) already; name what it was made of.")
    options = {"torch_dtype": torch.float32, "use_safetensors": True, "output_loading_info": True, **folder}
    try:
        with loading(kind or quantise, anew=quantise is not None) as how:
            network, info = family.network_type.from_pretrained(place, **options, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name} can not be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{name} lacks {len(info['missing_keys'])} weights of its {family.label}, such as {info['missing_keys'][0]}."
        )
    return network


def latent_channels(network: Any) -> int:
    """Of the latents that a network takes and predicts, before any packing."""
    return family_of(network).latent_channels(config_of(network))


def check_latent_sizes(network: Any, sizes: Iterable[tuple[int, int]]) -> None:
    """Raises UserError if one of these (height, width) is none that the network draws; none is looked at if it draws all."""
    family, config = family_of(network), config_of(network)
    if family.size_step(config) > 1 or family.largest_size(config) is not None:
        for height, width in sizes:
            family.check_size(config, height, width)


def text_channels(network: Any) -> int:
    """Of the text tokens that a network attends to."""
    return family_of(network).text_channels(config_of(network))


def adapted_layers(config: LoraConfig, network: Any) -> LoraConfig:
    """The adapter that a recipe asks for: on the family's own layers where it names none of its own.

    Raises:
        UserError: the class of the network takes no adapters.
    """
    family = family_of(network)
    if not family.lora_targets:
        raise UserError(
            f"diffusers' {family.network_class} takes no adapters, so {family.name} is trained whole: leave out lora."
        )
    usual = LoraConfig.model_fields["target_modules"].default
    if config.target_modules != usual:
        return config
    return config.model_copy(update={"target_modules": family.lora_targets})


def denoise(
    network: Any,
    noisy_bchw: Tensor,
    timestep_b: Tensor,
    tokens_bnc: Tensor,
    pooled_bp: Tensor,
    preset: int,
    *,
    lower_bchw: Tensor | None = None,
    native_size: tuple[int, int] | None = None,
    control: Mapping[str, Any] | None = None,
    cross_attention_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """One prediction (B, C, H, W) of a network of any family; what the arguments are, `DenoiserInput` says.

    A timestep that is floating point reaches the network's embedding as float32, whatever the weights are in: bf16 holds no more
    than 8 bits of it.

    Raises:
        UserError: latents of a size that the network can not draw.
    """
    asked = DenoiserInput(
        noisy_bchw,
        timestep_b,
        tokens_bnc,
        pooled_bp,
        preset,
        lower_bchw=lower_bchw,
        native_size=native_size,
        control=control,
        attention=cross_attention_kwargs,
    )
    return family_of(network).predict(network, asked)
