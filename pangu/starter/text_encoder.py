"""Trains the embedded text encoder: a small CLIP text model that reads Chinese and English as people write them.

First with pictures, contrastively (arXiv 2103.00020): a text must find its drawing among those of the batch, and a caption in any
wording or by a keyword must find the same caption as listed. The drawings are seen through fixed principal components, so that
nothing but the text model is worth keeping. Then with texts alone (`settle`): whatever stands around a caption, its embedding
becomes that of the caption, and captions keep the embeddings that they have.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.progress import Reporter, silent
from pangu.starter.optimize import optimize
from pangu.starter.spare_styles import SPARE_STYLES, looked
from pangu.starter.tokenizer import MAX_TOKENS, build_tokenizer
from pangu.starter.wordings import Wordings

WIDTH = 128
COMPONENTS = 192
LR_PEAK, LR_SETTLE = 1.5e-3, 6e-4
BATCH, BATCH_SETTLE = 160, 128
GROUPS = 4
"""Texts of a batch are embedded in groups of like length, so that short ones are not padded to the longest."""
SETTLE_SHARE = 0.3
"""Of the minutes, for the second part."""


def build_encoder(vocabulary: int, layers: int = 3, inner: int = 3 * WIDTH) -> CLIPTextModelWithProjection:
    """An untrained text model, with the defaults 2.2 M parameters, of which 1.8 M are the vocabulary's."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=inner,
            projection_dim=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


class Eye:
    """Drawings as the text encoder is shown them: 32 px thumbnails in their own, partly whitened principal components.

    small_nchw: box-averaged, in [-1, 1].
    """

    def __init__(self, images_nhwc: Tensor) -> None:
        self.small_nchw = F.interpolate(images_nhwc.permute(0, 3, 1, 2).float() / 127.5 - 1, 32, mode="area")
        flat = self.small_nchw.flatten(1)
        self._mean = flat.mean(0)
        _, scale, self._axes = torch.pca_lowrank(flat - self._mean, COMPONENTS, center=False)
        self._whitening = (scale / len(flat) ** 0.5).clamp_min(1e-3) ** 0.7
        self._spread = self._components(flat).std()

    def seen(self, rows: Sequence[int], prefixes: Sequence[str]) -> Tensor:
        """(B, COMPONENTS) of these drawings, those with the prefix of a spare style in its look."""
        pixels = self.small_nchw[list(rows)]
        for place, prefix in enumerate(prefixes):
            if prefix in SPARE_STYLES:
                pixels[place : place + 1] = looked(pixels[place : place + 1], prefix)
        return self._components(pixels.flatten(1)) / self._spread

    def _components(self, flat: Tensor) -> Tensor:
        return (flat - self._mean) @ self._axes / self._whitening


def train_text_encoder(
    drawings: Sequence[Emoji],
    images_nhwc: Tensor,
    minutes: float,
    folder: Path,
    seed: int = 0,
    report: Reporter = silent,
) -> float:
    """Train for so many core-minutes, save tokenizer and half-precision weights, return the last loss of the second part.

    images_nhwc (N, H, W, 3) uint8: the picture of each drawing.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(drawings)
    encoder = build_encoder(len(tokenizer)).train()
    _learn(encoder, tokenizer, drawings, images_nhwc, (1 - SETTLE_SHARE) * minutes, seed, report)
    loss = settle(encoder, tokenizer, drawings, SETTLE_SHARE * minutes, seed, report)
    encoder.eval().half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return loss


def _learn(
    encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, drawings: Sequence[Emoji], images_nhwc: Tensor, minutes: float,
    seed: int, report: Reporter,
) -> None:  # fmt: skip
    """The first part: texts, pictures and captions as listed find each other."""
    generator = torch.Generator().manual_seed(seed)
    wordings = Wordings(drawings, seed, filler_share=0.3, most_fillers=4)
    eye = Eye(images_nhwc)
    head = nn.Sequential(nn.Linear(COMPONENTS, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, WIDTH))
    log_scales = nn.Parameter(torch.full((2,), math.log(10.0)))

    def loss() -> Tensor:
        chosen = torch.randint(len(drawings), (BATCH,), generator=generator)
        rows = chosen.tolist()
        prefixes = [wordings.prefix(row) for row in rows]
        drawn = [wordings.draw(row, prefix) for row, prefix in zip(rows, prefixes, strict=True)]
        spoken = [LANGUAGES[which] for which in torch.randint(2, (BATCH,), generator=generator).tolist()]
        plain = [wordings.plain(*each) for each in zip(rows, spoken, prefixes, strict=True)]
        texts = F.normalize(_pooled(encoder, tokenizer, [text for text, _, _ in drawn] + plain), dim=-1)
        shown = eye.seen(rows, prefixes) + 0.05 * torch.randn(BATCH, COMPONENTS, generator=generator)
        seen = F.normalize(head(shown), dim=-1)
        suits = wordings.suits([own for _, _, own in drawn], rows, prefixes)
        same = wordings.suits([wordings.itself(row) for row in rows], rows, prefixes)
        scales = log_scales.exp().clamp(max=50)
        return (
            contrastive_loss(texts[:BATCH], seen, scales[0], suits)
            + contrastive_loss(texts[BATCH:], seen, scales[0], same)
            + contrastive_loss(texts[:BATCH], texts[BATCH:], scales[1], suits)
        ) / 3

    optimize([*encoder.parameters(), *head.parameters(), log_scales], loss, LR_PEAK, minutes, "text-encoder", report)


def settle(
    encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, drawings: Sequence[Emoji], minutes: float, seed: int = 0,
    report: Reporter = silent,
) -> float:  # fmt: skip
    """The second part: any wording is drawn to what `encoder` says of the bare text, which itself shall stay; returns the loss.

    So denoisers that were trained with the tower as it is understand more wordings with what comes out.
    """
    random = torch.Generator().manual_seed(seed + 1)
    wordings = Wordings(drawings, seed + 1, filler_share=0.65, most_fillers=5)
    before = build_encoder(len(tokenizer)).eval().requires_grad_(False)
    before.load_state_dict(encoder.state_dict())
    scale = torch.tensor(20.0)

    def loss() -> Tensor:
        rows = torch.randint(len(drawings), (BATCH_SETTLE,), generator=random).tolist()
        drawn = [wordings.draw(row, wordings.prefix(row)) for row in rows]
        bare = [means for _, means, _ in drawn]
        with torch.no_grad():
            kept_pooled, kept_hidden = _embedded(before, tokenizer, bare)
        pooled, hidden = _embedded(encoder, tokenizer, bare)
        worded = _pooled(encoder, tokenizer, [text for text, _, _ in drawn])
        size = kept_pooled.square().mean()
        stays = (pooled - kept_pooled).square().mean() / size
        for (now, mask), (then, _) in zip(hidden, kept_hidden, strict=True):
            stays = stays + masked_error(now, then, mask) / len(hidden)
        same = torch.tensor([[one == other for other in bare] for one in bare])
        found = contrastive_loss(F.normalize(worded, dim=-1), F.normalize(kept_pooled, dim=-1), scale, same)
        return 2 * stays + (worded - kept_pooled).square().mean() / size + 0.5 * found

    return optimize(list(encoder.parameters()), loss, LR_SETTLE, minutes, "text-encoder, settling", report)


Hidden = list[tuple[Tensor, Tensor]]
"""Of each group, its last hidden states (B, S, WIDTH) and its mask (B, S)."""


def _embedded(encoder: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Hidden]:
    """((B, WIDTH) pooled embeddings in the order of the texts, hidden states by group)."""
    ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS).input_ids
    order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
    pooled, hidden = [], []
    for group in _groups(order):
        batch = tokenizer.pad({"input_ids": [ids[place] for place in group]}, return_tensors="pt")
        output = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
        pooled.append(output.text_embeds)
        hidden.append((output.hidden_states[-1], batch.attention_mask))
    return torch.cat(pooled)[torch.tensor(order).argsort()], hidden


def _groups(order: list[int]) -> Iterator[list[int]]:
    size = math.ceil(len(order) / GROUPS)
    return (order[start : start + size] for start in range(0, len(order), size))


def _pooled(encoder: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    return _embedded(encoder, tokenizer, texts)[0]


def masked_error(now_bsc: Tensor, then_bsc: Tensor, mask_bs: Tensor) -> Tensor:
    """Squared error over the tokens that are none of padding, as a share of the mean square of `then_bsc`."""
    error = ((now_bsc - then_bsc).square() * mask_bs[..., None]).sum() / (mask_bs.sum() * now_bsc.shape[-1])
    return error / then_bsc.square().mean()


def contrastive_loss(left_bc: Tensor, right_bc: Tensor, scale: Tensor, suits_bb: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch of unit vectors; what suits a text, beside its own, is no negative of it."""
    logits = left_bc @ right_bc.T * scale
    logits = logits.masked_fill(suits_bb & ~torch.eye(len(left_bc), dtype=torch.bool), -1e4)
    target = torch.arange(len(left_bc))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
