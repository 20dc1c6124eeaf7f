"""Adapters of transformers, spelled by the names of their original code: FLUX, Qwen-Image, Z-Image, Wan and others.

What is named by the layers of the original code is read by `lora_layouts`; all else by diffusers' own converters, which take
what they know and may leave out the rest. So what becomes of every matrix and every alpha is followed, and a file of which
something would be lost is refused.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pangu.models.lora_files import TEXT, AdapterFile
from pangu.models.lora_formats import adaptable_layers, check_whole, keys_by_layer, names_here
from pangu.models.lora_layouts import by_layout

CONVERTERS = {
    "AuraFlowTransformer2DModel": "AuraFlowLoraLoaderMixin",
    "CogView4Transformer2DModel": "CogView4LoraLoaderMixin",
    "Flux2Transformer2DModel": "Flux2LoraLoaderMixin",
    "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "HiDreamImageTransformer2DModel": "HiDreamImageLoraLoaderMixin",
    "Lumina2Transformer2DModel": "Lumina2LoraLoaderMixin",
    "QwenImageTransformer2DModel": "QwenImageLoraLoaderMixin",
    "SD3Transformer2DModel": "SD3LoraLoaderMixin",
    "SanaTransformer2DModel": "SanaLoraLoaderMixin",
    "WanTransformer3DModel": "WanLoraLoaderMixin",
    "ZImageTransformer2DModel": "ZImageLoraLoaderMixin",
}
"""Class of a network -> the part of diffusers' pipelines that reads adapters for it."""
FOLLOWED = 4.0
"""Alpha / rank of every layer while it is followed what becomes of it: 1 would not show an alpha that is lost."""


def by_names_of(network: Any, file: AdapterFile) -> AdapterFile:
    """The same adapter by the names of diffusers' layers, if it is for such a transformer and spelled otherwise.

    Raises:
        ValueError: diffusers' converter does not know the spelling, or would lose a part of it.
    """
    loader = CONVERTERS.get(type(network).__name__)
    own = {key: tensor for key, tensor in file.tensors.items() if not TEXT.match(key)}
    if loader is None or not own:
        return file
    keys = keys_by_layer(own, drop_text=True)
    layers = adaptable_layers(network)
    if len(names_here(keys, layers, network)) == len(keys):
        return file
    check_whole(keys)
    text = {key: tensor for key, tensor in file.tensors.items() if key not in own}
    found, strange = by_layout(keys, own, layers, network)
    if not strange:
        return AdapterFile(found | text, file.facts)
    if len(strange) < len(keys):
        raise ValueError(
            f"only {len(keys) - len(strange)} of its {len(keys)} layers are layers of this network, {strange[0]} is none"
        )
    lost = _lost(keys, own, loader)
    if lost:
        raise ValueError(
            f"only {len(keys) - len(lost)} of its {len(keys)} layers are read by diffusers' converter for "
            f"{type(network).__name__}, {lost[0]} or its alpha is not"
        )
    return AdapterFile(_converted(own, loader) | text, file.facts)


def _converted(tensors: Mapping[str, Tensor], loader: str) -> dict[str, Tensor]:
    import diffusers.loaders.lora_pipeline as loaders

    alphas = {"return_alphas": True} if loader == "FluxLoraLoaderMixin" else {}
    try:
        found = getattr(loaders, loader).lora_state_dict(dict(tensors), **alphas)
    except (ValueError, KeyError, IndexError, AssertionError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"diffusers' converter does not know how it is spelled ({reason[:200].rstrip('.')})"
        ) from error
    state, network_alphas = found if isinstance(found, tuple) else (found, None)
    return {**state, **(network_alphas or {})}


def _lost(keys: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor], loader: str) -> list[str]:
    """The layers of the file that the converter leaves out, or of which it forgets the alpha.

    It is given the same shapes, filled with a prime for each layer; alpha / rank * B A of what it returns must show all of them.
    """
    primes = dict(zip(keys, _odd_primes(), strict=False))
    followed = {}
    for layer, sides in keys.items():
        for side, key in sides.items():
            value = FOLLOWED * len(tensors[sides["down"]]) if side == "alpha" else primes[layer]
            followed[key] = torch.full_like(tensors[key], value, dtype=torch.float64)
    out = _converted(followed, loader)
    seen = set()
    for sides in keys_by_layer(out, drop_text=True).values():
        if "down" in sides and "up" in sides:
            down, up = out[sides["down"]], out[sides["up"]]
            scale = float(out[sides["alpha"]]) / len(down) if "alpha" in sides else 1.0
            seen |= {round(a * b * scale) for a in down.unique().tolist() for b in up.unique().tolist()}
    return [
        layer
        for layer, prime in primes.items()
        if round(prime * prime * (FOLLOWED if "alpha" in keys[layer] else 1.0)) not in seen
    ]


def _odd_primes() -> Iterator[int]:
    found: list[int] = []
    for number in itertools.count(3, 2):
        if all(number % prime for prime in found):
            found.append(number)
            yield number
