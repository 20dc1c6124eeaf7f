"""The text side: a list of frozen encoders whose token embeddings are concatenated on the channel axis.

PanGu-Draw joins a Chinese CLIP and an English OpenCLIP encoder that way, so one model reads both languages (Section 3.3).
Any encoders that transformers loads will do. The embedded one reads both languages offline.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pangu.config import TextEncoderSource, TextJoin
from pangu.errors import UserError
from pangu.models.added_words import added_words, without_added_words
from pangu.models.hashing import tensors_hash
from pangu.models.known_words import unknown_words
from pangu.models.sources import locate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextTower:
    """One frozen encoder with its tokenizer.

    hidden_layer: -1 is the last hidden state, before the encoder's final norm where it has one; 0 is the final output, after it.
    sees_padding: whether the encoder attends to padding. Which one a pretrained denoiser expects is part of its training.
    join: how its answer stands beside those of the others; None: beside them on the channel axis.
    """

    tokenizer: Any
    encoder: Any
    hidden_layer: int = -1
    sees_padding: bool = False
    join: TextJoin | None = None

    def worded(self, caption: str) -> str:
        """A caption in the letters that it reads, within its template if it has one."""
        if self.join is None:
            return caption
        text = caption.lower().strip() if self.join.lower else caption
        return text if self.join.template is None else self.join.template.replace("{}", text)

    @property
    def dropped(self) -> int:
        """Tokens of the beginning that it reads and does not pass on."""
        return 0 if self.join is None else self.join.dropped

    @property
    def ending(self) -> str:
        """What stands behind a caption in its template; it is cut before a caption is."""
        return "" if self.join is None or self.join.template is None else self.join.template.partition("{}")[2]

    def limit(self, max_tokens: int) -> int:
        """Tokens that it reads where those of a text that say nothing of themselves read `max_tokens`."""
        return max_tokens if self.join is None else self.join.max_tokens

    @property
    def hash(self) -> str:
        """Of what it says of a text without placeholder tokens: with other ones it is the same encoder."""
        placeholders = added_words(self.encoder)
        extra: dict[str, Any] = {"hidden_layer": self.hidden_layer}
        words = ((word, number) for word, number in self.tokenizer.get_vocab().items() if word not in placeholders)
        extra["vocabulary"] = sorted(words)
        if self.sees_padding:
            extra["sees_padding"] = True
        if self.join is not None:
            extra["join"] = self.join.model_dump(mode="json")
        shape, tensors = without_added_words(self.encoder)
        return tensors_hash(tensors, shape | extra)

    @property
    def channels(self) -> int:
        return int(self.encoder.config.hidden_size)


def load_text_tower(source: TextEncoderSource) -> TextTower:
    """The frozen encoder and tokenizer of one entry of `Recipe.text_encoders`, in float32 and evaluation mode.

    Raises:
        UserError: nothing loadable is at the source.
    """
    from transformers import AutoTokenizer  # seconds, which whoever loads no encoder is spared

    place = locate(source.source, "text_encoder")
    model_folder = {"subfolder": source.subfolder} if source.subfolder else {}
    tokenizer_folder = source.tokenizer_subfolder or source.subfolder
    try:
        encoder = _load_encoder(place, model_folder)
        tokenizer = AutoTokenizer.from_pretrained(
            place, **({"subfolder": tokenizer_folder} if tokenizer_folder else {})
        )
    except (OSError, ValueError) as error:
        raise UserError(f"There is no text encoder at '{source.source}': {str(error).splitlines()[0]}") from error
    return TextTower(
        tokenizer, encoder.eval().requires_grad_(False), source.hidden_layer, source.sees_padding, source.join
    )


def _load_encoder(place: str, folder: dict[str, str]) -> Any:
    """CLIP-like text encoders keep the projection that they have; of a Chinese CLIP pair only the text half is kept."""
    from transformers import (
        AutoConfig,
        AutoModel,
        ChineseCLIPModel,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5EncoderModel,
        UMT5EncoderModel,
    )

    config = AutoConfig.from_pretrained(place, **folder)
    kind = config.model_type
    options: dict[str, Any] = {**folder, "dtype": torch.float32, "use_safetensors": True}
    if kind == "clip_text_model" and config.architectures == ["CLIPTextModel"]:
        # A projection would be drawn at random, and no two loads would be one encoder.
        return CLIPTextModel.from_pretrained(place, **options)
    if kind in ("clip", "clip_text_model"):
        return CLIPTextModelWithProjection.from_pretrained(place, **options)
    if kind == "chinese_clip":
        return ChineseCLIPModel.from_pretrained(place, **options).text_model
    if kind == "qwen2_5_vl":  # a prompt has no pictures
        return AutoModel.from_pretrained(place, **options).language_model
    if kind in ("t5", "umt5"):  # the encoder alone: the other half would be drawn at random
        return (T5EncoderModel if kind == "t5" else UMT5EncoderModel).from_pretrained(place, **options)
    return AutoModel.from_pretrained(place, **options)


def styled_caption(caption: str, prefix: str) -> str:
    """The caption of an image whose style has that prefix (PanGu-Draw, Section 3.3); the same in training and sampling."""
    return f"{prefix} {caption}"


@dataclass(frozen=True)
class Truncation:
    """The end of a caption that a text tower does not read, because it takes `max_tokens` tokens and the caption has `tokens`.

    tower: position in the list of towers. Both counts include the marks of beginning and end.
    """

    tower: int
    text: str
    tokens: int
    max_tokens: int


def truncations(towers: Sequence[TextTower], caption: str, max_tokens: int, windows: int = 1) -> list[Truncation]:
    """What `embed_captions` cuts off `caption`: one entry for each tower that does not read all of it.

    windows: so many of `max_tokens` are read (`text_windows`), each with its own marks of beginning and end.
    """
    found = []
    for number, tower in enumerate(towers):
        own = tower.limit(max_tokens)
        most = own + (windows - 1) * (own - tower.tokenizer.num_special_tokens_to_add())
        tokens, end = _unread(tower.tokenizer, tower.worded(caption), most + tower.dropped)
        length = len(end) - len(tower.ending)
        if tokens - tower.dropped > most and (length > 0 or not tower.ending):
            found.append(Truncation(number, caption[len(caption) - length :], tokens - tower.dropped, most))
    return found


def warn_of_truncation(towers: Sequence[TextTower], captions: Sequence[str], max_tokens: int, windows: int = 1) -> None:
    """Log a warning for each caption that is cut, as diffusers' pipelines do; once for each text."""
    for caption in captions:
        for cut in truncations(towers, caption, max_tokens, windows):
            _warn_once(cut)


def warn_of_unknown_words(towers: Sequence[TextTower], captions: Sequence[str]) -> None:
    """Log a warning for each caption of which no tower knows the greater part; once for the same words."""
    for caption in captions:
        if words := unknown_words([tower.tokenizer for tower in towers], caption):
            _warn_of_words_once(words)


@lru_cache(maxsize=256)
def _warn_of_words_once(words: tuple[str, ...]) -> None:
    logger.warning("Most of your input is unknown to the text encoders, so it says little to them: %s", " ".join(words))


@lru_cache(maxsize=256)
def _warn_once(cut: Truncation) -> None:
    logger.warning(
        "The following part of your input was truncated because text encoder %d reads at most %d tokens, and the text has %d: %s",
        cut.tower + 1,
        cut.max_tokens,
        cut.tokens,
        cut.text,
    )


def _unread(tokenizer: Any, caption: str, max_tokens: int) -> tuple[int, str]:
    """(tokens of the whole caption, the end of it beyond `max_tokens`; a character that is read in part counts as unread)."""
    if not tokenizer.is_fast:
        ids = tokenizer(caption, verbose=False).input_ids
        kept = max(0, max_tokens - tokenizer.num_special_tokens_to_add())
        content = tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        return len(ids), tokenizer.decode(content[kept:])
    read = tokenizer(caption, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    starts = [
        start for (start, _), special in zip(read.offset_mapping, read.special_tokens_mask, strict=True) if not special
    ]
    kept = max(0, max_tokens - (len(read.input_ids) - len(starts)))
    return len(read.input_ids), caption[starts[kept] :] if kept < len(starts) else ""


@torch.inference_mode()
def embed_captions(
    towers: Sequence[TextTower], captions: Sequence[str], max_tokens: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Token embeddings (B, max_tokens, sum of channels) and the pooled embedding (B, P) of the last tower, unless towers say
    otherwise of themselves (`TextJoin`).

    Captions are padded or cut to `max_tokens` tokens, so every tower gives a sequence of one length (PanGu-Draw:
    1024 Chinese + 1280 English channels, both at 77 tokens). device: where encoders compute whose weights are elsewhere.
    """
    tokens: list[Tensor] = []
    pooled: list[Tensor] = []
    chosen = any(tower.join is not None and tower.join.pooled for tower in towers)
    for tower in towers:
        batch = tower.tokenizer(
            [tower.worded(caption) for caption in captions],
            padding="max_length",
            truncation=True,
            max_length=tower.dropped + tower.limit(max_tokens),
            return_tensors="pt",
        )
        own, sentence = encoded(tower, batch.input_ids, batch.attention_mask, device)
        own, mask = own[:, tower.dropped :], batch.attention_mask[:, tower.dropped :]
        if tower.join is not None and tower.join.padding != "read":
            own = own * mask[..., None].to(own)
        tokens.append(own)
        if not chosen or (tower.join is not None and tower.join.pooled):
            pooled.append(sentence)
    return _side_by_side(towers, tokens), torch.cat(pooled if chosen else pooled[-1:], dim=-1)


def _side_by_side(towers: Sequence[TextTower], tokens: Sequence[Tensor]) -> Tensor:
    """(B, N, C) of the tokens of each tower."""
    rows: list[list[Tensor]] = []
    for tower, each in zip(towers, tokens, strict=True):
        place = "channels" if tower.join is None else tower.join.tokens
        if place == "sequence" or (place == "channels" and not rows):
            rows.append([each])
        elif place == "channels":
            rows[-1].append(each)
        if tower.join is not None and tower.join.absent is not None:
            absent = tower.join.absent
            rows.append([each.new_zeros(len(each), absent.tokens, absent.channels)])
    joined = [torch.cat(row, dim=-1) for row in rows]
    width = max(each.shape[-1] for each in joined)
    return torch.cat([torch.nn.functional.pad(each, (0, width - each.shape[-1])) for each in joined], dim=1)


def encoded(
    tower: TextTower, ids_bn: Tensor, mask_bn: Tensor, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Token embeddings (B, N, C) and pooled (B, P) of tokens; the mask is 1 where there is text."""
    there = device or tower.encoder.device
    output = tower.encoder(
        input_ids=ids_bn.to(there),
        attention_mask=None if tower.sees_padding else mask_bn.to(there),
        output_hidden_states=True,
    )
    final = tower.hidden_layer == 0
    tokens = output.last_hidden_state if final else output.hidden_states[tower.hidden_layer]
    # An offloaded encoder answers from the device that it was moved to for the call.
    return tokens, _pooled(output, mask_bn.to(tokens.device))


def _pooled(output: Any, mask: Tensor) -> Tensor:
    """The encoder's own sentence embedding; the mean over tokens where it has none."""
    for name in ("text_embeds", "pooler_output"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    weights = mask[..., None].to(output.last_hidden_state.dtype)
    return (output.last_hidden_state * weights).sum(1) / weights.sum(1)
