"""Trains a text encoder that takes the place of another before the same denoisers, which need not learn again.

Knowledge distillation (arXiv 1503.02531) between encoders of different vocabularies: whatever is around a caption, the student
says what the teacher says of the caption alone. First the answer itself is compared, then what the denoisers make of it.
`teach_names` goes on from a successor: a word that it does not know is a thing, too, and the same in every sentence.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pangu.config import ROLES
from pangu.data.example.openmoji import Emoji
from pangu.diffusion.noise import add_noise
from pangu.diffusion.training_levels import training_levels
from pangu.models.autoencoders import encode_pixels
from pangu.models.denoisers import denoise
from pangu.models.text import TextTower, encoded
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Reporter, silent
from pangu.starter.optimize import optimize
from pangu.starter.paraphrases import Paraphrases
from pangu.starter.text_encoder import build_encoder
from pangu.starter.tokenizer import MAX_TOKENS, build_tokenizer

BATCH_ANSWERS, BATCH_PREDICTIONS = 128, 48
LR_ANSWERS, LR_PREDICTIONS = 2e-3, 6e-4
LAYERS, INNER = 4, 512
ANSWERS_SHARE = 0.4
"""Of the minutes, for the comparison of answers."""
UNREAD = 0.15
"""Weight of what is said at tokens that have not read the whole text, because attention is causal."""
NAMED_SHARE, MOST_STRETCHED = 0.4, 4.0
LR_NAMES = 1e-3
TEXTURE_EVERY = 3
"""One batch in three asks the texture half: what is drawn is decided by the other."""


class KnownAnswers:
    """What a tower says of captions: tokens (B, S, C) the other way round, and pooled (B, P).

    Cross-attention has no order. What the teacher says first, the student is to say last, where its causal attention has read the
    whole text; what stands at the teacher's end is said of padding, and hardly differs between texts. A teacher that is a
    successor itself says it last already (`turned`: False).

    Of a name, a text that is none of the captions, it is said what the tower says, but as far from what it says of no text as
    captions are on average, or `MOST_STRETCHED` times as far as it was.
    """

    def __init__(self, tower: TextTower, captions: Sequence[str], turned: bool = True) -> None:
        self._tower, self._turned = tower, turned
        self._place = {text: place for place, text in enumerate(["", *captions])}
        self._tokens_nsc, self._pooled_np = self._ask(list(self._place))
        self.token_size = float(self._tokens_nsc.square().mean())
        self.pooled_size = float(self._pooled_np.square().mean())
        self._usual = float((self._tokens_nsc[1:] - self._tokens_nsc[0]).square().mean())

    def say(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens, pooled) of captions, of "", or of names."""
        chosen = [self._place.get(text, 0) for text in texts]
        tokens, pooled = self._tokens_nsc[chosen], self._pooled_np[chosen]
        names = [place for place, text in enumerate(texts) if text not in self._place]
        if names:
            tokens[names], pooled[names] = self._of_names([texts[place] for place in names])
        return tokens, pooled

    def _of_names(self, names: list[str]) -> tuple[Tensor, Tensor]:
        tokens, pooled = self._ask(names)
        tokens, pooled = tokens - self._tokens_nsc[0], pooled - self._pooled_np[0]
        far_n = tokens.square().mean((1, 2)).clamp_min(1e-9)
        stretch_n = (self._usual / far_n).sqrt().clamp(1, MOST_STRETCHED)
        return self._tokens_nsc[0] + stretch_n[:, None, None] * tokens, self._pooled_np[0] + stretch_n[:, None] * pooled

    @torch.inference_mode()
    def _ask(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        parts = [_said(self._tower, texts[start : start + 256]) for start in range(0, len(texts), 256)]
        tokens, pooled, _ = (torch.cat(each) for each in zip(*parts, strict=True))
        return tokens.flip(1) if self._turned else tokens, pooled


def train_successor(
    pair: PanGuDrawPipeline, drawings: Sequence[Emoji], latents_nchw: Tensor, minutes: float, folder: Path,
    init_from: Path | None = None, seed: int = 0, report: Reporter = silent,
) -> float:  # fmt: skip
    """Train for so many core-minutes, save tokenizer and half-precision weights, return the last loss.

    pair: whose denoisers are kept, with the one encoder that they know; latents_nchw (N, C, h, w): of each drawing, as the pair's
    autoencoder encodes it; init_from: a student of before.
    """
    torch.manual_seed(seed)
    (teaching,) = pair.text_towers
    tokenizer = build_tokenizer(drawings)
    encoder = build_encoder(len(tokenizer), LAYERS, INNER).train()
    if init_from is not None:
        encoder.load_state_dict(encoder.from_pretrained(init_from, torch_dtype=torch.float32).state_dict())
    texts = Paraphrases(drawings, seed)
    teacher, shown = KnownAnswers(teaching, texts.captions), Shown(pair, texts.drawing_of, latents_nchw, seed)
    loss = _learn(TextTower(tokenizer, encoder), teacher, texts, shown, LR_ANSWERS, minutes, report)
    _save(encoder, tokenizer, folder)
    return loss


def teach_names(
    pair: PanGuDrawPipeline, drawings: Sequence[Emoji], latents_nchw: Tensor, minutes: float, folder: Path,
    init_from: Path | None = None, share: float = 1.0, seed: int = 0, report: Reporter = silent,
) -> float:  # fmt: skip
    """Teach a pair's encoder names of things that no drawing shows, for so many core-minutes; as `train_successor` else.

    In any sentence it is to say of such a name what it says of the name alone, and of all else what it says now. So an adapter
    that learns a new thing from a few pictures learns what it is called in more sentences.

    init_from: what an earlier call saved, to go on from. share: how far to go from the encoder that the pair has to the one that
    was learnt, between their weights (arXiv 2109.01903): 0.5 keeps what captions are told more exactly, and most of what was
    learnt of sentences.
    """
    torch.manual_seed(seed)
    (own,) = pair.text_towers
    encoder = copy.deepcopy(own.encoder).float().requires_grad_(True).train()
    if init_from is not None:
        encoder.load_state_dict(encoder.from_pretrained(init_from, torch_dtype=torch.float32).state_dict())
    texts = Paraphrases(drawings, seed, NAMED_SHARE)
    teacher = KnownAnswers(own, texts.captions, turned=False)
    shown = Shown(pair, texts.drawing_of, latents_nchw, seed)
    loss = _learn(TextTower(own.tokenizer, encoder), teacher, texts, shown, LR_NAMES, minutes, report)
    before = own.encoder.state_dict()
    learnt = encoder.state_dict()
    encoder.load_state_dict({name: torch.lerp(before[name].to(value), value, share) for name, value in learnt.items()})
    _save(encoder, own.tokenizer, folder)
    return loss


def _learn(
    tower: TextTower, teacher: KnownAnswers, texts: Paraphrases, shown: "Shown", lr_answers: float, minutes: float,
    report: Reporter,
) -> float:  # fmt: skip
    parameters = list(tower.encoder.parameters())

    def answers() -> Tensor:
        return sum(_answer_errors(tower, teacher, *texts.batch(BATCH_ANSWERS))[:2], torch.zeros(()))

    def predictions() -> Tensor:
        asked, means = texts.batch(BATCH_PREDICTIONS)
        tokens, pooled, said, meant = _answer_errors(tower, teacher, asked, means)
        return shown.prediction_error(means, said, meant, teacher.say([""])) + 0.1 * tokens + 0.3 * pooled

    optimize(parameters, answers, lr_answers, ANSWERS_SHARE * minutes, "text-encoder, answers", report)
    rest = (1 - ANSWERS_SHARE) * minutes
    return optimize(parameters, predictions, LR_PREDICTIONS, rest, "text-encoder, predictions", report)


def _save(encoder: Any, tokenizer: Any, folder: Path) -> None:
    encoder.eval().half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


Said = tuple[Tensor, Tensor]
"""Tokens (B, S, C) and pooled (B, P)."""


def _said(tower: TextTower, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, pooled, mask of the text (B, S))."""
    batch = tower.tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    return *encoded(tower, batch.input_ids, batch.attention_mask), batch.attention_mask


def _answer_errors(
    tower: TextTower, teacher: KnownAnswers, texts: Sequence[str], means: Sequence[str]
) -> tuple[Tensor, Tensor, Said, Said]:
    """(error of the tokens, of the pooled embedding, as shares of their mean squares, what the student says, the teacher)."""
    tokens, pooled, mask = _said(tower, texts)
    meant_tokens, meant_pooled = teacher.say(means)
    read = torch.cat([mask[:, 1:] == 0, torch.ones_like(mask[:, :1], dtype=torch.bool)], dim=1)
    weight = (UNREAD + (1 - UNREAD) * read.float())[..., None]
    error = ((tokens - meant_tokens).square() * weight).sum() / (weight.sum() * tokens.shape[-1])
    error_pooled = (pooled - meant_pooled).square().mean() / teacher.pooled_size
    return error / teacher.token_size, error_pooled, (tokens, pooled), (meant_tokens, meant_pooled)


class Shown:
    """Noisy drawings, and what the halves of a pair predict of them under two answers."""

    def __init__(self, pair: PanGuDrawPipeline, drawing_of: Mapping[str, int], latents_nchw: Tensor, seed: int) -> None:
        self._pair, self._latents = pair, latents_nchw
        self._random, self._turn = torch.Generator().manual_seed(seed), 0
        self._drawing_of = drawing_of
        for role in ROLES:
            getattr(pair, role).eval().requires_grad_(False)

    def prediction_error(self, means: Sequence[str], said: Said, meant: Said, nothing: Said) -> Tensor:
        """Squared difference of the predictions, as a share of what the teacher's text changes: () float32."""
        self._turn += 1
        role = ROLES[self._turn % TEXTURE_EVERY == 0]
        contract, network, size = self._pair.contract(role), getattr(self._pair, role), len(means)
        timestep = torch.randint(contract.low, contract.high, (size,), generator=self._random)
        clean = self._crops(means, contract.resolution // contract.spatial_factor)
        noise = torch.randn(clean.shape, generator=self._random)
        noisy = add_noise(clean, noise, training_levels(contract.schedule).level(timestep))
        with torch.no_grad():
            wanted = denoise(network, noisy, timestep, *meant, preset=0)
            tokens, pooled = (each.expand(size, *each.shape[1:]) for each in nothing)
            blind = denoise(network, noisy, timestep, tokens, pooled, preset=0)
        error = (denoise(network, noisy, timestep, *said, preset=0) - wanted).square().mean()
        return error / (wanted - blind).square().mean()

    def _crops(self, means: Sequence[str], side: int) -> Tensor:
        """(B, C, side, side) latents of what the texts mean, anything where no drawing shows it."""
        anything = torch.randint(len(self._latents), (len(means),), generator=self._random).tolist()
        chosen = [self._drawing_of.get(text, other) for text, other in zip(means, anything, strict=True)]
        room = self._latents.shape[-1] - side + 1
        top, left = torch.randint(room, (2,), generator=self._random).tolist()
        return self._latents[chosen, :, top : top + side, left : left + side]


@torch.inference_mode()
def latents_of(autoencoder: Any, images_nhwc: Tensor) -> Tensor:
    """(N, C, h, w) float32, scaled, of (N, H, W, 3) uint8 images."""
    pixels = images_nhwc.permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([encode_pixels(autoencoder, batch) for batch in pixels.split(64)])


@torch.inference_mode()
def word_error(pair: PanGuDrawPipeline, tower: TextTower, captions: Sequence[str], latents_nchw: Tensor) -> float:
    """How far a pair predicts something else when `tower` reads a caption in place of its own encoder: the squared difference as
    a share of what the caption changes. latents_nchw: of the drawing of each caption."""
    (own,) = pair.text_towers
    teacher, shown = (
        KnownAnswers(own, captions),
        Shown(pair, dict(zip(captions, range(len(captions)), strict=True)), latents_nchw, 0),
    )
    errors = []
    for start in range(0, len(captions), BATCH_PREDICTIONS):
        few = captions[start : start + BATCH_PREDICTIONS]
        tokens, pooled, _ = _said(tower, few)
        errors.append(float(shown.prediction_error(few, (tokens, pooled), teacher.say(few), teacher.say([""]))))
    return sum(errors) / len(errors)
