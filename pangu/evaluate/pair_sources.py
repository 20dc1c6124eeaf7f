"""Pairs by what they are made of: wherever one is wanted it is made anew, ready to draw a protocol's prompts."""

from dataclasses import dataclass
from pathlib import Path

from pangu.config import Recipe, Role
from pangu.contract import GeneratorContract
from pangu.evaluate.generate import ready
from pangu.evaluate.protocol import Protocol
from pangu.models.autoencoders import load_autoencoder
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import join, load_generator
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
    """The pair of two generator folders, without a pair folder: a matrix would fill the disk with copies."""

    structure: Path
    texture: Path
    recipe: Recipe
    protocol: Protocol

    def __call__(self) -> PanGuDrawPipeline:
        structure, texture = load_generator(self.structure), load_generator(self.texture)
        towers = [load_text_tower(source) for source in self.recipe.text_encoders]
        autoencoder = load_autoencoder(self.recipe.autoencoder)
        contracts: dict[Role, GeneratorContract] = {"structure": structure[1], "texture": texture[1]}
        return ready(join(structure[0], texture[0], contracts, autoencoder, towers, self.recipe), self.protocol)
