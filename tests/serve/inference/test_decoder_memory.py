"""What is decoded at once has a bound: more images come in turns, and larger ones in tiles."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor

from pangu.models.autoencoders import decode_latents
from pangu.serve.inference.decoder import decoded

SIDE = 64
"""Of the latents, twice that of a tile."""
PIXELS = (2 * SIDE) ** 2


class Drawer:
    """What `decoded` needs of a pipeline, around an autoencoder of two pixels a latent; `seen` are its decoder's inputs."""

    def __init__(self, vae: Any) -> None:
        self.vae, self.device = vae, torch.device("cpu")
        self.reference = SimpleNamespace(spatial_factor=2)
        self.image_processor = VaeImageProcessor(vae_scale_factor=2)
        self.seen: list[tuple[int, ...]] = []
        vae.decoder.register_forward_pre_hook(lambda _, inputs: self.seen.append(tuple(inputs[0].shape)))

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, output_type: str) -> Any:
        return self.image_processor.postprocess(decode_latents(self.vae, latents), output_type=output_type)


class WithoutTiles:
    """Of diffusers' autoencoders for images all know tiles today."""

    def __init__(self, vae: Any) -> None:
        self.config, self.dtype, self.decode = vae.config, vae.dtype, vae.decode


@pytest.fixture
def drawer() -> Drawer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        vae = AutoencoderKL(
            block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4, sample_size=SIDE, **blocks
        )
    return Drawer(vae.eval())


def latents(images: int) -> torch.Tensor:
    return torch.randn(images, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def pictures(drawer: Any, images: int, most_pixels: int) -> np.ndarray:
    return np.stack([np.asarray(image, np.float32) for image in decoded(drawer, latents(images), most_pixels)]) / 255


def test_an_image_beyond_the_bound_comes_in_tiles_and_is_nearly_the_same(drawer: Drawer) -> None:
    whole = pictures(drawer, 2, 2 * PIXELS)
    assert drawer.seen == [(2, 4, SIDE, SIDE)]
    drawer.seen.clear()
    tiles = pictures(drawer, 2, PIXELS - 1)
    assert len(drawer.seen) > 2 and max(shape[0] * shape[2] * shape[3] for shape in drawer.seen) == (SIDE // 2) ** 2
    assert 0 < np.abs(tiles - whole).mean() < 0.1 * whole.std()
    # Only for as long as it was needed.
    assert np.array_equal(pictures(drawer, 2, 2 * PIXELS), whole)


def test_images_come_in_turns_where_together_they_are_beyond_the_bound(drawer: Drawer) -> None:
    together, in_turns = pictures(drawer, 3, 4 * PIXELS), pictures(drawer, 3, 2 * PIXELS - 1)
    assert [shape[0] for shape in drawer.seen] == [3, 1, 1, 1]
    assert np.abs(together - in_turns).max() <= 1 / 255


def test_an_autoencoder_without_tiles_decodes_a_large_image_whole_and_alone(drawer: Drawer) -> None:
    drawer.vae = WithoutTiles(drawer.vae)
    whole = pictures(drawer, 2, PIXELS // 4)
    assert drawer.seen == [(1, 4, SIDE, SIDE)] * 2
    assert np.abs(pictures(drawer, 2, 2 * PIXELS) - whole).max() <= 1 / 255
