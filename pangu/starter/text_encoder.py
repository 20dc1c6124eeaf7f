"""Trains the embedded text encoder: a small CLIP text model that reads Chinese and English alike.

Contrastive (arXiv 2103.00020): a caption in either language must find its drawing among the others of the batch. The drawings are
seen through fixed principal components, so that nothing but the text model is worth keeping.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from pangu.data.example.openmoji import Emoji
from pangu.progress import Progress, Reporter, silent

VOCABULARY = 3072
MAX_TOKENS = 32
WIDTH = 128
COMPONENTS = 192
LR_PEAK = 1e-3
BATCH = 256


def build_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from the captions: any UTF-8 text at all has tokens, known words have one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]  # an eos id of 2 would make transformers pool by the largest id
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", model_max_length=MAX_TOKENS
    )


def build_encoder(vocabulary: int) -> CLIPTextModelWithProjection:
    """An untrained text model, 0.9 M parameters."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
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


def train_text_encoder(
    drawings: list[Emoji], images_nhwc: Tensor, minutes: float, folder: Path, seed: int = 0, report: Reporter = silent
) -> float:
    """Train for so many core-minutes, save tokenizer and half-precision weights, return the last contrastive loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    captions = [caption for one in drawings for caption in (one.caption_en, one.caption_zh)]
    tokenizer = build_tokenizer(captions)
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    ids_nlt = tokens.input_ids.reshape(len(drawings), 2, MAX_TOKENS)
    seen_nc = principal_components(images_nhwc)
    encoder = build_encoder(len(tokenizer)).train()
    eye = nn.Sequential(nn.Linear(COMPONENTS, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, WIDTH))
    log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    parameters = [*encoder.parameters(), *eye.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, LR_PEAK, betas=(0.9, 0.98), weight_decay=0.02)
    began, step, loss = time.thread_time(), 0, torch.tensor(0.0)
    while (part := (time.thread_time() - began) / (60 * minutes)) < 1:
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = LR_PEAK * min(1, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        chosen = torch.randint(len(drawings), (BATCH,), generator=generator)
        language = torch.randint(2, (BATCH,), generator=generator)
        noise = 0.05 * torch.randn(BATCH, COMPONENTS, generator=generator)
        loss = contrastive_loss(encoder, eye, log_scale, ids_nlt[chosen, language], seen_nc[chosen] + noise, chosen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            facts = {"steps": step, "loss": round(float(loss), 4)}
            report(Progress(stage="text-encoder", done=int(100 * part), total=100, unit="%", facts=facts))
    encoder.eval().half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return float(loss.detach())


def contrastive_loss(
    encoder: nn.Module, eye: nn.Module, log_scale: Tensor, ids_bt: Tensor, seen_bc: Tensor, rows_b: Tensor
) -> Tensor:
    """Symmetric InfoNCE over the batch; a row drawn twice is no negative of itself."""
    longest = int((ids_bt != 0).sum(1).max())
    ids_bt = ids_bt[:, :longest]
    text = F.normalize(encoder(input_ids=ids_bt, attention_mask=(ids_bt != 0).long()).text_embeds, dim=-1)
    image = F.normalize(eye(seen_bc), dim=-1)
    logits = text @ image.T * log_scale.exp().clamp(max=50)
    same = (rows_b[:, None] == rows_b) & ~torch.eye(len(rows_b), dtype=torch.bool)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(rows_b))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
