"""How far two sets of images lie apart: FID, KID and IS, by torchmetrics, over features that somebody else extracted.

A number is only as good as its feature space, so every number is named after it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from pangu.errors import UserError

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class _Given(nn.Identity):
    """Stands where torchmetrics expects a network: the features are already there."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def fid(real_nd: Tensor, generated_md: Tensor) -> float:
    """Frechet distance of the two Gaussians with the features' means and covariances (arXiv 1706.08500, Eq. 6); >= 0.

    Biased upwards where there are few images: compare only numbers of equally many.

    Raises:
        UserError: fewer than two images on a side.
    """
    _check(real_nd, generated_md, "FID")
    metric = FrechetInceptionDistance(feature=_Given(real_nd.shape[1]))
    metric.update(real_nd.double(), real=True)
    metric.update(generated_md.double(), real=False)
    return max(0.0, float(metric.compute()))


def kid(real_nd: Tensor, generated_md: Tensor, seed: int = 0) -> float:
    """Unbiased squared MMD with the cubic kernel (x.y / D + 1)^3 (arXiv 1801.01401, Section 4); about 0 for equal sets.

    The mean over `KID_SUBSETS` seeded subsets of up to `KID_SUBSET_SIZE` images; with fewer images, over all of them at once.

    Raises:
        UserError: fewer than two images on a side.
    """
    _check(real_nd, generated_md, "KID")
    size = min(KID_SUBSET_SIZE, len(real_nd), len(generated_md))
    whole = size == len(real_nd) == len(generated_md)
    with _seeded(seed):
        metric = KernelInceptionDistance(
            feature=_Given(real_nd.shape[1]), subsets=1 if whole else KID_SUBSETS, subset_size=size
        )
        metric.update(real_nd.double(), real=True)
        metric.update(generated_md.double(), real=False)
        return float(metric.compute()[0])


def inception_score(probabilities_nc: Tensor, splits: int = 10, seed: int = 0) -> float:
    """exp E KL(p(y|x) || p(y)), averaged over `splits` parts (arXiv 1606.03498, Section 4); from 1 to the number of classes.

    Raises:
        UserError: fewer images than parts.
    """
    if len(probabilities_nc) < splits:
        raise UserError(f"IS over {splits} parts needs at least {splits} images, not {len(probabilities_nc)}.")
    with _seeded(seed):
        metric = InceptionScore(feature=_Given(probabilities_nc.shape[1]), splits=splits)
        metric.update(probabilities_nc.double().clamp_min(1e-30).log())
        return float(metric.compute()[0])


def _check(real_nd: Tensor, generated_md: Tensor, name: str) -> None:
    fewest = min(len(real_nd), len(generated_md))
    if fewest < 2:
        raise UserError(f"{name} needs at least 2 images on each side, not {len(generated_md)} against {len(real_nd)}.")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchmetrics draws subsets from the global generator and warns of memory and of a single part's spread."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        yield
