"""What encoding does on a device: as many images at once as it has memory for, in the number format that it is fast in."""

import numpy as np
import pytest
import torch

from pangu.data.encode.encoders import Loaded
from pangu.data.encode.view_latents import in_parts, pixel_latents
from pangu.errors import UserError
from pangu.models.devices import dtype_on
from pangu.recipes import tiny
from tests import subtests


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


@subtests.parametrize(("count", "room", "sizes"), [(7, 9, [7]), (7, 2, [7, 3, 1, 2, 4, 2, 2]), (2, 1, [2, 1, 1])])
def test_a_batch_that_does_not_fit_is_computed_in_halves(count: int, room: int, sizes: list[int]) -> None:
    tried: list[int] = []

    def compute(batch: np.ndarray) -> torch.Tensor:
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.from_numpy(batch).float().mean((1, 2))

    whole = torch.from_numpy(images(count)).float().mean((1, 2))
    assert torch.equal(in_parts(compute, images(count)), whole)
    assert tried == sizes


def test_one_image_that_does_not_fit_is_said_in_a_sentence() -> None:
    def compute(batch: np.ndarray) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="runs out of device memory with one image of 32x32 px; encode smaller images"):
        in_parts(compute, images(3))


def test_cpus_encode_in_float32_and_bf16_makes_the_same_latents_but_for_rounding() -> None:
    assert dtype_on(torch.device("cpu")) == torch.float32
    exact = Loaded.of(tiny(), "cpu").fast().autoencoder
    assert exact.dtype == torch.float32
    rounded = torch.nn.Module.to(Loaded.of(tiny(), "cpu").autoencoder, torch.bfloat16)
    expected, found = pixel_latents(images(4), exact), pixel_latents(images(4), rounded).float()
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
