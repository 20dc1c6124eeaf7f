"""Teaches a half of a pair how another artist draws what it knows: a low-rank adapter on every layer (arXiv 2106.09685).

Captions as listed are enough: whatever wording a text has, the pair's encoder says of it what it says of the caption.
"""

import copy
from collections.abc import Sequence

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pangu.config import Role
from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.models.lora_formats import LowRank, adaptable_layers
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Reporter, silent
from pangu.starter.half_loss import EMPTY_SHARE, HalfLoss
from pangu.starter.optimize import optimize
from pangu.starter.tuned_half import BATCH, embedded
from pangu.starter.wordings import caption

RANK, LR_PEAK = 32, 6e-3


class LowRankWeight(nn.Module):
    """W -> W + B A: as much work for a batch as W alone, for what is computed twice is as large as a weight."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(min(rank, len(weight), inputs), inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), len(self.down)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)

    def matrices(self, weight: Tensor) -> LowRank:
        """As adapters of a layer with that weight are written."""
        rank, ones = len(self.down), [1] * (weight.ndim - 2)
        down, up = self.down.detach(), self.up.detach()
        return LowRank(down.view(rank, *weight.shape[1:]), up.view(len(weight), rank, *ones), float(rank))


def style_half(
    pair: PanGuDrawPipeline, role: Role, drawings: Sequence[Emoji], latents_nchw: Tensor, minutes: float,
    rank: int = RANK, seed: int = 0, report: Reporter = silent,
) -> dict[str, LowRank]:  # fmt: skip
    """The adapter of `role` by layer, after so many core-minutes on one artist's drawings: its running mean.

    latents_nchw (N, C, h, w): of each drawing, as the pair's autoencoder encodes it.
    """
    torch.manual_seed(seed)
    network, contract = copy.deepcopy(getattr(pair, role)).train().requires_grad_(False), pair.contract(role)
    random = torch.Generator().manual_seed(seed)
    error = HalfLoss(network, contract, latents_nchw, random)
    texts = [caption(one, language) for language in LANGUAGES for one in drawings]
    tokens_nsc, pooled_np = embedded(pair.text_towers[0], [*texts, ""], contract.max_tokens)
    layers = adaptable_layers(network)
    weights = {name: layer.weight.detach() for name, layer in layers.items()}  # type: ignore[operator]
    adapters = {name: LowRankWeight(weights[name], rank) for name in layers}
    for name, layer in layers.items():
        parametrize.register_parametrization(layer, "weight", adapters[name])
    parameters = [parameter for adapter in adapters.values() for parameter in adapter.parameters()]
    mean = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75)

    def loss() -> Tensor:
        mean.step(parameters)
        asked = torch.randint(len(texts), (BATCH,), generator=random)
        empty = torch.rand(BATCH, generator=random) < EMPTY_SHARE
        said = torch.where(empty, len(texts), asked)
        return error((asked % len(drawings)).tolist(), tokens_nsc[said], pooled_np[said])

    optimize(parameters, loss, LR_PEAK, minutes, f"{role}, in another style", report)
    mean.copy_to(parameters)
    return {name: adapter.matrices(weights[name]) for name, adapter in adapters.items()}
