"""Low-rank adapters beside the weights of a network, each for its own rows of a batch: W x + sum_a w_a alpha / rank B A x.

So requests with different adapters share a call. The weights stay as they are, and so does an adapter that is on the network.
"""

from collections.abc import Mapping
from itertools import count, pairwise
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from pangu.models.lora_formats import LowRank, adaptable_layers
from pangu.sampling.question import Denoiser

ATTRIBUTE = "_pangu_row_adapters"


class Adapter:
    """Matrices by the layer of the network that each belongs to, and the number that rows name it by."""

    _numbers = count(1)

    def __init__(self, layers: Mapping[str, LowRank]) -> None:
        self.layers, self.number = layers, next(self._numbers)


class RowAdapters:
    """The adapters that rows of one network may ask for. Not for several threads at once.

    Whoever asks for an adapter holds it: nothing here keeps one alive.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = adaptable_layers(network)
        self._modules = dict(network.named_modules())
        self._hooked: set[str] = set()
        self._known: WeakValueDictionary[int, Adapter] = WeakValueDictionary()
        self._acting: list[tuple[slice, Adapter, float]] = []

    @classmethod
    def of(cls, network: Any) -> Self:
        """Those of this network, which keeps them."""
        found: Self | None = vars(network).get(ATTRIBUTE)
        if found is None:
            found = vars(network)[ATTRIBUTE] = cls(network)
        return found

    def add(self, layers: Mapping[str, LowRank]) -> Adapter:
        """An adapter in the dtype and on the device of the layers that it belongs to."""
        own = {}
        for name, low in layers.items():
            weight: Any = self._layers[name].weight
            like = weight.device, weight.dtype  # a quantised weight says what it is computed in
            own[name] = LowRank(low.down.to(*like), low.up.to(*like), low.alpha)
        adapter = Adapter(own)
        self._known[adapter.number] = adapter
        return adapter

    def around(self, network: Denoiser, plain: Denoiser) -> Denoiser:
        """A network whose last input says of each row which adapters it has: (rows, 2 n), n times a number and a weight.

        network: asked where a row has one. plain: asked where none has, as it may be a recording that knows no adapters.
        """

        def predict(*inputs: Tensor) -> Tensor:
            *asked, adapters = inputs
            self._acting = self._groups(adapters)
            if not self._acting:
                return plain(*asked)
            try:
                return network(*asked)
            finally:
                self._acting = []

        return predict

    def _groups(self, adapters_rn: Tensor) -> list[tuple[slice, Adapter, float]]:
        """Rows in a row that ask for the same, with each adapter that they have."""
        rows = adapters_rn.tolist()
        ends = [0, *(place for place in range(1, len(rows)) if rows[place] != rows[place - 1]), len(rows)]
        groups = []
        for start, end in pairwise(ends):
            for number, weight in zip(rows[start][::2], rows[start][1::2], strict=True):
                if number and weight:
                    groups.append((slice(start, end), self._known[int(number)], weight))
        for _, adapter, _ in groups:
            for name in adapter.layers.keys() - self._hooked:
                self._hooked.add(name)
                self._modules[name].register_forward_hook(self._hook(name))
        return groups

    def _hook(self, name: str) -> Any:
        layer = self._layers[name]

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for rows, adapter, weight in self._acting:
                low = adapter.layers.get(name)
                if low is not None:
                    output[rows] += weight * low.alpha / low.rank * _delta(layer, low, inputs[0][rows])
            return output

        return add


def named(adapters: Mapping[Adapter, float], most: int) -> Tensor:
    """What a row says that has these adapters at these weights, (2 `most`,), on the CPU; the same width for all rows."""
    said = [value for adapter, weight in adapters.items() for value in (float(adapter.number), weight)]
    return torch.tensor(said + [0.0] * (2 * most - len(said)), dtype=torch.float64)


def _delta(layer: nn.Module, low: LowRank, inputs: Tensor) -> Tensor:
    """B A x of a linear or a convolutional layer."""
    down, up = (
        low.down.to(inputs),
        low.up.to(inputs),
    )  # a layer whose weights come and go computes elsewhere than they wait
    if isinstance(layer, nn.Conv2d):
        inner = functional.conv2d(inputs, down, None, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
        return functional.conv2d(inner, up)
    return functional.linear(functional.linear(inputs, down), up)
