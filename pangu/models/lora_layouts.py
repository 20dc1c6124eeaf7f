"""Adapters of transformers by the names of their original code, by what diffusers' converters make of whole networks.

diffusers has converters of adapters for some transformers and some spellings. What a layer of the original code becomes is known
for all that `original_transformers` knows, so a matrix for it is a matrix for each of its parts: A is theirs, B is cut by rows.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pangu.models.lora_formats import plain_name
from pangu.models.original_transformers import parts_of_original


def by_layout(
    keys: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Module], network: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """The matrices by the names of diffusers, and those layers of the file that are none of the network.

    keys: {layer as the file names it: {"down", "up" or "alpha": key}}. layers: those of the network that take an adapter.
    """
    known = _parts(network, layers)
    made: dict[str, Tensor] = {}
    for layer, sides in keys.items():
        for name, rows in known.get(plain_name(layer), {}).items():
            up = tensors[sides["up"]]
            made[f"transformer.{name}.lora_A.weight"] = tensors[sides["down"]]
            made[f"transformer.{name}.lora_B.weight"] = torch.cat([up[first:last] for first, last in rows])
            if "alpha" in sides:
                made[f"transformer.{name}.alpha"] = tensors[sides["alpha"]]
    return made, [layer for layer in keys if plain_name(layer) not in known]


def _parts(network: Any, layers: Mapping[str, nn.Module]) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """{layer of the original code, with _ for points: {layer of diffusers: (first, last) rows of it there}}."""
    found = parts_of_original(network, network_names(network))
    heights: dict[str, dict[int, int]] = {}
    of: dict[str, list[tuple[str, int]]] = {}
    for name, layer in layers.items():
        stand_in = found.get(f"{name}.weight")
        for original, index, _ in stand_in.parts if stand_in else ():
            heights.setdefault(original, {})[index] = len(layer.weight) // len(stand_in.parts)  # type: ignore[union-attr,arg-type]
            of.setdefault(original, []).append((name, index))
    known: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for original, parts in of.items():
        own = known.setdefault(original.removesuffix(".weight").replace(".", "_"), {})
        for name, index in parts:
            start = sum(heights[original].get(before, 0) for before in range(index))
            own.setdefault(name, []).append((start, start + heights[original][index]))
    return known


def network_names(network: Any) -> list[str]:
    """Names of the weights as if no adapter was on them."""
    return [name.replace(".base_layer.", ".") for name in network.state_dict() if ".lora_" not in name]
