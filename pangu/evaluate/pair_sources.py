"""Pairs by what they are made of: wherever one is wanted it is made anew, ready to draw a protocol's prompts."""

from dataclasses import dataclass
from pathlib import Path

from pangu.config import Recipe
from pangu.contract import expert_roles
from pangu.evaluate.generate import ready
from pangu.evaluate.protocol import Protocol
from pangu.models.autoencoders import load_autoencoder
from pangu.models.placeholder_tokens import text_towers_of
from pangu.pipelines.assemble import join, join_experts, load_generator
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline


@dataclass(frozen=True)
class PairFolder:
    """The pair of a pair folder."""

    folder: Path
    protocol: Protocol

    def __call__(self) -> PanGuDrawPipeline:
        return ready(load_pair(self.folder), self.protocol)


@dataclass(frozen=True)
class Halves:
    """The pair of two generator folders, without a pair folder: a matrix would fill the disk with copies.

    middles: folders of experts between the two, the noisiest first.
    """

    structure: Path
    texture: Path
    recipe: Recipe
    protocol: Protocol
    middles: tuple[Path, ...] = ()

    def __call__(self) -> PanGuDrawPipeline:
        places = (self.structure, *self.middles, self.texture)
        found = dict(zip(expert_roles(len(places)), map(load_generator, places), strict=True))
        networks = {role: network for role, (network, _) in found.items()}
        contracts = {role: own for role, (_, own) in found.items()}
        towers = text_towers_of(self.recipe)
        autoencoder = load_autoencoder(self.recipe.autoencoder)
        if self.middles:
            return ready(join_experts(networks, contracts, autoencoder, towers, self.recipe), self.protocol)
        halves = networks["structure"], networks["texture"]
        return ready(join(*halves, contracts, autoencoder, towers, self.recipe), self.protocol)
