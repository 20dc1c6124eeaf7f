"""Styles of one half of a pair as low-rank adapters (arXiv 2106.09685): a component of the pair's folder, beside the half itself.

Each acts on the rows of requests that ask for it (`pangu.models.row_adapters`); the weights of the half stay as they are.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from pangu.errors import UserError
from pangu.models.lora_formats import LowRank, adaptable_layers


class StyleAdapters(ModelMixin, ConfigMixin):
    """Adapters by the name of their style.

    layers: layer of the half -> shape of its weight. ranks: style -> the rank in each of these layers, in the order of their
    names; 0 leaves a layer as it is. Styles have the order of their names, too, for diffusers sorts what it writes. Alpha is the
    rank, so that W + B A is drawn with at a scale of 1.
    """

    @register_to_config
    def __init__(self, layers: dict[str, list[int]], ranks: dict[str, list[int]]) -> None:
        super().__init__()
        for place, style in enumerate(sorted(ranks)):
            for (name, (outputs, *inputs)), rank in zip(sorted(layers.items()), ranks[style], strict=True):
                if rank:
                    module = _below(self, f"{place}.{name}")
                    module.down = nn.Parameter(torch.zeros(rank, *inputs), requires_grad=False)
                    module.up = nn.Parameter(torch.zeros(outputs, rank, *[1] * (len(inputs) - 1)), requires_grad=False)

    @classmethod
    def of(cls, adapters: Mapping[str, Mapping[str, LowRank]]) -> "StyleAdapters":
        """From matrices: style -> layer -> its adapter."""
        layers = {
            name: [len(low.up), *low.down.shape[1:]] for matrices in adapters.values() for name, low in matrices.items()
        }
        ranks = {
            style: [own[name].rank if name in own else 0 for name in sorted(layers)] for style, own in adapters.items()
        }
        made = cls(layers=layers, ranks=ranks)
        with torch.no_grad():
            for style, matrices in adapters.items():
                for name, low in made.matrices(style).items():
                    low.down.copy_(matrices[name].down)
                    low.up.copy_(matrices[name].up * (matrices[name].alpha / matrices[name].rank))
        return made.eval()

    @property
    def styles(self) -> tuple[str, ...]:
        return tuple(sorted(self.config.ranks))

    def matrices(self, style: str) -> dict[str, LowRank]:
        """The adapter of a style by layer; it shares memory with the component."""
        place = self.styles.index(style)
        found: dict[str, LowRank] = {}
        for name, rank in zip(sorted(self.config.layers), self.config.ranks[style], strict=True):
            if rank:
                own: Any = self.get_submodule(f"{place}.{name}")
                found[name] = LowRank(own.down, own.up, float(rank))
        return found

    def check(self, network: nn.Module, label: str) -> None:
        """Raises UserError unless each layer is one of the network `label`, of the same shape."""
        own = adaptable_layers(network)
        for name, shape in self.config.layers.items():
            if name not in own or list(own[name].weight.shape) != list(shape):  # type: ignore[arg-type]
                there = f"has shape {tuple(own[name].weight.shape)}" if name in own else "is not there"  # type: ignore[arg-type]
                raise UserError(
                    f"The styles of {label} were made for another network: its layer {name} {there}, not {tuple(shape)}."
                )


def _below(module: nn.Module, path: str) -> Any:
    """The module at a dotted path, made where it is not there."""
    for part in path.split("."):
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module
