"""A small dataset with held-out rows, and generators of the tiny recipe: untrained, but real in every file."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pangu.config import AutoencoderSource, Recipe, TextEncoderSource
from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import Encoders
from pangu.data.encode.encoders import describe
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.diffusion.interval import TimeInterval
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import build_denoiser
from pangu.models.text import load_text_tower
from pangu.recipes import tiny
from pangu.storage import Home
from tests.small_dataset import NAME, commit_rows, row


@dataclass(frozen=True)
class Bench:
    """A home with one encoded dataset `small`, and what its generators must carry."""

    home: Home
    recipe: Recipe
    version: int
    encode_id: str
    encoders: Encoders
    dataset: str = NAME

    def generator(self, name: str, role: str, seed: int, interval: TimeInterval | None = None) -> Path:
        """A generator folder with random weights, for the role's interval or another one."""
        folder = self.home.root / "generators" / name
        encoders = self.encoders
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_denoiser(
                self.recipe.denoiser, encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
            )
        network.save_pretrained(folder)
        contract: GeneratorContract = encoders.contract(self.recipe, role)  # type: ignore[arg-type]
        if interval is not None:
            contract = contract.model_copy(update={"low": interval.low, "high": interval.high})
        contract.save(folder)
        return folder


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """14 drawings: 8 trained (4 of them upscaled) and 6 held out."""
    home, recipe = Home(tmp_path_factory.mktemp("bench")), tiny()
    rows = [
        row(one, index < 8 and index % 2 == 1, split="train" if index < 8 else "held_out")
        for index, one in enumerate(selection(14))
    ]
    version = commit_rows(home, rows)
    encoded = encode(NAME, version, recipe, home)
    encoders = describe(
        load_autoencoder(AutoencoderSource()), [load_text_tower(TextEncoderSource())], recipe.max_tokens
    )
    return Bench(home, recipe, version, encoded.encode_id, encoders)


@pytest.fixture(scope="session")
def structures(bench: Bench) -> list[Path]:
    return [bench.generator(f"structure-{seed}", "structure", seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def textures(bench: Bench) -> list[Path]:
    return [bench.generator(f"texture-{seed}", "texture", seed) for seed in (3, 4)]
