"""Trains the embedded text encoder: a small CLIP text model that reads Chinese and English as people write them.

Contrastive (arXiv 2103.00020): a text must find its drawing among those of the batch, and a caption in any wording, language or
by a keyword must find the same caption as listed. The drawings are seen through fixed principal components, so that nothing
but the text model is worth keeping.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from pangu.data.captions import LANGUAGES
from pangu.data.wording import chosen
from pangu.models.text import styled_caption
from pangu.progress import Progress, Reporter, silent
from pangu.starter.language import STYLES, TEMPLATES

VOCABULARY = 8192
MAX_TOKENS = 32
WIDTH = 128
LAYERS = 3
COMPONENTS = 192
LR_PEAK = 1.5e-3
BATCH = 160
GROUPS = 4
"""Texts of a batch are embedded in groups of like length, so that short ones are not padded to the longest."""
KEYWORD_SHARE, TEMPLATE_SHARE, FILLER_SHARE = 0.25, 0.6, 0.3
MOST_FILLERS = 4


@dataclass(frozen=True)
class Subject:
    """What one drawing may be called: captions and keywords by language, and the style that it is drawn in ("": OpenMoji's)."""

    style: str
    captions: Mapping[str, str]
    keywords: Mapping[str, Sequence[str]]


def build_tokenizer(subjects: Sequence[Subject]) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from all wordings: any UTF-8 text at all has tokens, known words have one, and so has each Han
    character, so that a word has the same tokens wherever it stands. Variation selectors and case make no difference."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("\ufe0f", "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]  # an eos id of 2 would make transformers pool by the largest id
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
    )
    tokenizer.train_from_iterator(_corpus(subjects), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", model_max_length=MAX_TOKENS
    )


def _corpus(subjects: Sequence[Subject]) -> Iterator[str]:
    """All that the tokenizer learns from: captions, keywords, plurals, and each template with one caption."""
    for subject in subjects:
        for language in LANGUAGES:
            yield subject.captions[language]
            yield from subject.keywords[language]
        yield chosen(["{plural}"], subject.captions["en"], 0)
    for language, templates in TEMPLATES.items():
        for place, template in enumerate(templates):
            yield chosen([template], subjects[place % len(subjects)].captions[language], 0)


def build_encoder(vocabulary: int) -> CLIPTextModelWithProjection:
    """An untrained text model, 1.5 M parameters, of which 1.0 M are the vocabulary's."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 32,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


def principal_components(images_nhwc: Tensor) -> Tensor:
    """(N, COMPONENTS): box-averaged 32 px thumbnails in their own, partly whitened principal components."""
    small = F.interpolate(images_nhwc.permute(0, 3, 1, 2).float() / 127.5 - 1, 32, mode="area").flatten(1)
    centred = small - small.mean(0)
    _, scale, axes = torch.pca_lowrank(centred, COMPONENTS, center=False)
    whitened = (centred @ axes) / (scale / len(small) ** 0.5).clamp_min(1e-3) ** 0.7
    return whitened / whitened.std()


class Wordings:
    """Texts for subjects, at random, and which other subjects each would suit as well.

    fillers: by language, words that mean nothing beside a caption; those that a caption or keyword holds are left out.
    """

    def __init__(self, subjects: Sequence[Subject], fillers: Mapping[str, Sequence[str]], seed: int) -> None:
        self._subjects, self._random = subjects, np.random.default_rng(seed)
        said = {
            language: " ".join(text for one in subjects for text in (one.captions[language], *one.keywords[language]))
            for language in LANGUAGES
        }
        known = {"en": set(said["en"].lower().split()), "zh": set(said["zh"])}
        self._fillers = {
            "en": [word for word in fillers["en"] if word.isalpha() and word not in known["en"]],
            "zh": [word for word in fillers["zh"] if not known["zh"] & set(word)],
        }
        self._number: dict[tuple[str, str], int] = {}
        self._owners: list[set[tuple[str, str]]] = []
        for one in subjects:
            for language in LANGUAGES:
                for text in (one.captions[language], *one.keywords[language]):
                    place = self._number.setdefault((language, text.lower()), len(self._number))
                    if place == len(self._owners):
                        self._owners.append(set())
                    self._owners[place].add((one.style, one.captions["en"]))
        self._who = [(one.style, one.captions["en"]) for one in subjects]

    def plain(self, row: int, language: str) -> str:
        """The caption as listed, behind its style's prefix."""
        one = self._subjects[row]
        return self._styled(one, one.captions[language])

    def draw(self, row: int) -> tuple[str, set[tuple[str, str]]]:
        """A wording, and the (style, caption) of all that it suits."""
        one, chance = self._subjects[row], self._random.random(6)
        language = LANGUAGES[int(chance[0] < 0.5)]
        text, words = one.captions[language], one.keywords[language]
        if words and chance[1] < KEYWORD_SHARE:
            text = words[int(chance[2] * len(words))]
        suits = self._owners[self._number[language, text.lower()]]
        if chance[3] < TEMPLATE_SHARE:
            text = chosen(TEMPLATES[language], text, float(chance[4]))
        if chance[5] < FILLER_SHARE:
            text = self._filled(text, language)
        return self._styled(one, text), suits

    def suits(self, texts: Sequence[set[tuple[str, str]]], rows: Sequence[int]) -> Tensor:
        """(texts, rows) bool: which rows a text suits, in its row's own style."""
        who = [self._who[row] for row in rows]
        return torch.tensor(
            [[one in found and one[0] == mine[0] for one in who] for found, mine in zip(texts, who, strict=True)]
        )

    def _filled(self, text: str, language: str) -> str:
        words = self._fillers[language]
        before = int(self._random.integers(MOST_FILLERS + 1))
        after = int(self._random.integers(MOST_FILLERS + 1 - before))
        some = [words[place] for place in self._random.integers(len(words), size=before + after)]
        return (" " if language == "en" else "").join([*some[:before], text, *some[before:]])

    def _styled(self, one: Subject, text: str) -> str:
        return styled_caption(text, STYLES[one.style]) if one.style else text


def train_text_encoder(
    subjects: Sequence[Subject], images_nhwc: Tensor, fillers: Mapping[str, Sequence[str]], minutes: float, folder: Path,
    seed: int = 0, report: Reporter = silent,
) -> float:  # fmt: skip
    """Train for so many core-minutes, save tokenizer and half-precision weights, return the last loss.

    images_nhwc (N, H, W, 3) uint8: the drawing of each subject.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    wordings = Wordings(subjects, fillers, seed)
    tokenizer = build_tokenizer(subjects)
    seen_nc = principal_components(images_nhwc)
    encoder = build_encoder(len(tokenizer)).train()
    eye = nn.Sequential(nn.Linear(COMPONENTS, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, WIDTH))
    log_scales = nn.Parameter(torch.full((2,), math.log(10.0)))
    parameters = [*encoder.parameters(), *eye.parameters(), log_scales]
    optimizer = torch.optim.AdamW(parameters, LR_PEAK, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    began, step, loss = time.thread_time(), 0, torch.tensor(0.0)
    while (part := (time.thread_time() - began) / (60 * minutes)) < 1:
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = LR_PEAK * min(1, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        chosen_rows = torch.randint(len(subjects), (BATCH,), generator=generator)
        rows = chosen_rows.tolist()
        drawn = [wordings.draw(row) for row in rows]
        language = torch.randint(2, (BATCH,), generator=generator).tolist()
        plain = [wordings.plain(row, LANGUAGES[which]) for row, which in zip(rows, language, strict=True)]
        texts = F.normalize(_embed(encoder, tokenizer, [text for text, _ in drawn] + plain), dim=-1)
        noise = 0.05 * torch.randn(BATCH, COMPONENTS, generator=generator)
        seen = F.normalize(eye(seen_nc[chosen_rows] + noise), dim=-1)
        suits = wordings.suits([found for _, found in drawn], rows)
        same = wordings.suits([{wordings._who[row]} for row in rows], rows)
        scales = log_scales.exp().clamp(max=50)
        loss = (
            contrastive_loss(texts[:BATCH], seen, scales[0], suits)
            + contrastive_loss(texts[BATCH:], seen, scales[0], same)
            + contrastive_loss(texts[:BATCH], texts[BATCH:], scales[1], suits)
        ) / 3
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            facts = {"steps": step, "loss": round(float(loss.detach()), 4)}
            report(Progress(stage="text-encoder", done=int(100 * part), total=100, unit="%", facts=facts))
    encoder.eval().half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return float(loss.detach())


def _embed(encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """(B, WIDTH) pooled embeddings."""
    ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS).input_ids
    order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
    embedded = []
    for start in range(0, len(texts), math.ceil(len(texts) / GROUPS)):
        group = [ids[place] for place in order[start : start + math.ceil(len(texts) / GROUPS)]]
        batch = tokenizer.pad({"input_ids": group}, return_tensors="pt")
        embedded.append(encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).text_embeds)
    back = torch.empty(len(texts), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(texts))
    return torch.cat(embedded)[back]


def contrastive_loss(left_bc: Tensor, right_bc: Tensor, scale: Tensor, suits_bb: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch of unit vectors; what suits a text, beside its own, is no negative of it."""
    logits = left_bc @ right_bc.T * scale
    logits = logits.masked_fill(suits_bb & ~torch.eye(len(left_bc), dtype=torch.bool), -1e4)
    target = torch.arange(len(left_bc))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
