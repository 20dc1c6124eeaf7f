"""Captions longer than what text encoders read, in windows: each is read by itself, and the tokens of all stand in one row.

A network that looks at text by cross-attention takes any number of tokens. Encoders like CLIP's know positions up to a length.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pangu.models.sources import CLIP_LIKE
from pangu.models.text import TextTower, encoded

MOST_WINDOWS = 8


def reads_windows(towers: Sequence[TextTower]) -> bool:
    """Whether all of these encoders are like CLIP's."""
    return all(tower.join is None and tower.encoder.config.model_type in CLIP_LIKE for tower in towers)


def windows_of(towers: Sequence[TextTower], captions: Sequence[str], max_tokens: int) -> int:
    """Windows that the longest of these captions needs, at most `MOST_WINDOWS`."""
    longest = 1
    for tower in towers:
        start, end = _marks(tower)
        room = max_tokens - len(start) - len(end)
        if room > 0:
            longest = max(longest, *(math.ceil(len(ids) / room) for ids in _contents(tower, captions)))
    return min(longest, MOST_WINDOWS)


@torch.inference_mode()
def embed_windows(
    towers: Sequence[TextTower],
    captions: Sequence[str],
    max_tokens: int,
    windows: int,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Token embeddings (B, windows * max_tokens, sum of channels) and the pooled embedding (B, P) of the first window.

    With one window these are those of `embed_captions`. Windows that a caption does not fill are those of the empty one.
    """
    tokens, pooled = [], None
    for tower in towers:
        start, end = _marks(tower)
        room, ids, mask = max_tokens - len(start) - len(end), [], []
        for content in _contents(tower, captions):
            for place in range(windows):
                own = [*start, *content[place * room : (place + 1) * room], *end]
                ids.append([*own, *[tower.tokenizer.pad_token_id] * (max_tokens - len(own))])
                mask.append([1] * len(own) + [0] * (max_tokens - len(own)))
        each, said = encoded(tower, torch.tensor(ids), torch.tensor(mask), device)
        tokens.append(each.reshape(len(captions), windows * max_tokens, -1))
        pooled = said.reshape(len(captions), windows, -1)[:, 0]
    assert pooled is not None
    return torch.cat(tokens, dim=-1), pooled


def _contents(tower: TextTower, captions: Sequence[str]) -> list[list[int]]:
    """Tokens without the marks of beginning and end."""
    found: list[list[int]] = tower.tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids
    return found


def _marks(tower: TextTower) -> tuple[list[int], list[int]]:
    """Tokens that stand before and behind those of every caption."""
    whole: list[int] = tower.tokenizer("a").input_ids
    (content,) = _contents(tower, ["a"])
    place = next(place for place in range(len(whole)) if whole[place : place + len(content)] == content)
    return whole[:place], whole[place + len(content) :]
