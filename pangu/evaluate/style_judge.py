"""A small classifier that says in which style an image is drawn, learnt from a dataset's own originals. Deterministic."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pangu.errors import UserError
from pangu.evaluate.features import SIDE

HIDDEN, DROPOUT, BATCH, RATE = 256, 0.3, 128, 2e-3
EPOCHS, LEAST_STEPS = 20, 200
APART = 5
"""One of so many captions is kept apart, in every style, to see how far the classifier can be trusted."""


@dataclass(frozen=True)
class StyleJudge:
    """styles: what it tells apart, "" among them where images have none. accuracy: share of images kept apart that it names."""

    styles: tuple[str, ...]
    accuracy: float
    network: nn.Module

    def names(self, images: Sequence[Image.Image]) -> list[str]:
        """The style of each image."""
        return [self.styles[index] for index in _predicted(self.network, style_features(images)).tolist()]


def style_features(images: Sequence[Image.Image]) -> Tensor:
    """(N, 2 * 16 * 16 * 3) in [0, 1]: the mean and the darkest of each part of the image, by which outlines are told."""
    parts = 4  # pixels of each part along one side, whatever the image's
    found = []
    for image in images:
        pixels = np.asarray(image.convert("RGB").resize((SIDE * parts, SIDE * parts), Image.Resampling.BOX))
        split = pixels.reshape(SIDE, parts, SIDE, parts, 3).astype(np.float32) / 255
        found.append(np.concatenate([split.mean((1, 3)).reshape(-1), split.min((1, 3)).reshape(-1)]))
    return torch.from_numpy(np.stack(found))


def train_judge(features_nf: Tensor, styles: Sequence[str], captions: Sequence[str]) -> StyleJudge:
    """Learn the N images' styles: once without the captions kept apart, for the accuracy, and once from all of them.

    Raises:
        UserError: there are fewer than two styles, or too few captions to keep any apart.
    """
    known = tuple(sorted(set(styles)))
    apart = torch.tensor([_apart(caption) for caption in captions])
    label_n = torch.tensor([known.index(style) for style in styles])
    if len(known) < 2 or not apart.any() or len(label_n[~apart].unique()) < len(known):
        raise UserError(
            f"Which style an image is drawn in can not be learnt from {len(styles)} training originals in "
            f"{len(known)} styles; leave out the metric 'style'."
        )
    tried = _trained(features_nf[~apart], label_n[~apart], len(known))
    accuracy = float((_predicted(tried, features_nf[apart]) == label_n[apart]).float().mean())
    return StyleJudge(known, accuracy, _trained(features_nf, label_n, len(known)))


def _apart(caption: str) -> bool:
    """By caption, so that what is kept apart was not seen in another style either."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "big") % APART == 0


def _trained(features_nf: Tensor, label_n: Tensor, count: int) -> nn.Module:
    """A perceptron with one hidden layer; every style weighs the same, however many images it has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            _Standardized(features_nf),
            nn.Linear(features_nf.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, count),
        )
        optimizer = torch.optim.AdamW(network.parameters(), RATE)
        weight = 1 / torch.bincount(label_n, minlength=count).float()
        for _ in range(max(LEAST_STEPS, EPOCHS * len(label_n) // BATCH)):
            batch = torch.randint(len(label_n), (BATCH,))
            loss = nn.functional.cross_entropy(network(features_nf[batch]), label_n[batch], weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def _predicted(network: nn.Module, features_nf: Tensor) -> Tensor:
    return network(features_nf).argmax(1)


class _Standardized(nn.Module):
    """Features less their mean, over their spread."""

    mean: Tensor
    spread: Tensor

    def __init__(self, features_nf: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features_nf.mean(0))
        self.register_buffer("spread", features_nf.std(0) + 0.05)

    def forward(self, features_nf: Tensor) -> Tensor:
        return (features_nf - self.mean) / self.spread
