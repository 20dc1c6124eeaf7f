"""Adapters that act on the rows of one request alone, beside the weights of the half that draws them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pangu.models.row_adapters import Adapter, RowAdapters, named
from pangu.sampling.question import Denoiser, Network, Question


@dataclass(frozen=True)
class ActingAdapters:
    """adapters: with their weights, of `beside`'s network; none where the request has none. most: at once, of any request, so
    that requests share calls whichever they have."""

    beside: RowAdapters
    adapters: Mapping[Adapter, float] = field(default_factory=dict)
    most: int = 1

    @property
    def key(self) -> tuple[tuple[int, float], ...]:
        """What a picture depends on here."""
        return tuple((adapter.number, weight) for adapter, weight in self.adapters.items())

    def and_those(self, others: "ActingAdapters | None") -> "ActingAdapters":
        """These and others of the same network."""
        if others is None:
            return self
        return replace(self, adapters={**self.adapters, **others.adapters}, most=self.most + others.most)

    def on(self, asked: Question, pipe: Any) -> Question:
        """A question to a half of `pipe` whose rows say which adapters they have."""
        network, beside = asked.network, self.beside
        both = replace(
            network,
            key=(network.key, "adapters"),
            set_up=lambda: beside.around(_eager(pipe, network), network.set_up()),
        )
        named_bn = named(self.adapters, self.most).expand(asked.rows, -1)
        return replace(asked, network=both, inputs=(*asked.inputs, named_bn))


def _eager(pipe: Any, network: Network) -> Denoiser:
    """The network without recordings, which know nothing of the adapters of rows."""
    graphs, pipe.graphs = pipe.graphs, None
    try:
        return network.set_up()
    finally:
        pipe.graphs = graphs
