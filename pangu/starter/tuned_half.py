"""Trains a half of the embedded pair on while a new text encoder reads, in the wordings that it reads."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from pangu.config import Role
from pangu.data.example.openmoji import Emoji
from pangu.models.text import TextTower, embed_captions
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Reporter, silent
from pangu.starter.half_loss import EMPTY_SHARE, HalfLoss
from pangu.starter.optimize import optimize
from pangu.starter.paraphrases import Paraphrases

BATCH, LR_PEAK = 32, 6e-4
LISTED_SHARE = 0.4
"""Of the texts: captions as they are."""


def tune_half(
    pair: PanGuDrawPipeline, role: Role, tower: TextTower, drawings: Sequence[Emoji], latents_nchw: Tensor, minutes: float,
    seed: int = 0, report: Reporter = silent,
) -> Any:  # fmt: skip
    """The network of `role`, trained for so many core-minutes on its own interval while `tower` reads: its running mean.

    latents_nchw (N, C, h, w): of each drawing, as the pair's autoencoder encodes it.
    """
    torch.manual_seed(seed)
    network, contract = copy.deepcopy(getattr(pair, role)).train().requires_grad_(True), pair.contract(role)
    random, texts = torch.Generator().manual_seed(seed), Paraphrases(drawings, seed)
    error = HalfLoss(network, contract, latents_nchw, random)
    known = dict(
        zip(texts.captions, zip(*embedded(tower, texts.captions, contract.max_tokens), strict=True), strict=True)
    )
    mean = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    parameters = list(network.parameters())

    def loss() -> Tensor:
        mean.step(parameters)
        asked, means = texts.batch(BATCH)
        chance = torch.rand(BATCH, generator=random).tolist()
        asked = [own if part < LISTED_SHARE else "" if part > 1 - EMPTY_SHARE else text
                 for text, own, part in zip(asked, means, chance, strict=True)]  # fmt: skip
        tokens, pooled = _read(tower, asked, known, contract.max_tokens)
        anything = torch.randint(len(drawings), (BATCH,), generator=random).tolist()
        rows = [texts.drawing_of.get(text, other) for text, other in zip(means, anything, strict=True)]
        return error(rows, tokens, pooled)

    optimize(parameters, loss, LR_PEAK, minutes, f"{role}, tuned", report)
    mean.copy_to(parameters)
    return network.eval()


def embedded(tower: TextTower, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """(tokens, pooled) of many texts."""
    parts = [embed_captions([tower], texts[start : start + 256], max_tokens) for start in range(0, len(texts), 256)]
    tokens, pooled = (torch.cat(each) for each in zip(*parts, strict=True))
    return tokens, pooled


def _read(
    tower: TextTower, texts: Sequence[str], known: dict[str, tuple[Tensor, Tensor]], max_tokens: int
) -> tuple[Tensor, Tensor]:
    if unknown := sorted({text for text in texts if text not in known}):
        more = dict(zip(unknown, zip(*embedded(tower, unknown, max_tokens), strict=True), strict=True))
    else:
        more = {}
    found = [known[text] if text in known else more[text] for text in texts]
    return torch.stack([tokens for tokens, _ in found]), torch.stack([pooled for _, pooled in found])
