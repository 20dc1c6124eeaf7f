"""Words with a token of their own in a frozen text encoder, so that a new subject is one thing in every sentence.

Textual inversion (arXiv 2208.01618, Section 3.2): a placeholder token whose embedding is learnt, the network as it is. Here the
network of the generator learns the pictures (an adapter), and the embedding only that it is heard: whatever known words stand
around it, the encoder says what it says of the word alone, and that is as far from nothing as other words are. It follows from
word and encoder, so nobody has to keep it. What the encoder says of a text without such a word does not change by a bit.
"""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pangu.config import Recipe
from pangu.errors import UserError
from pangu.models.added_words import KEPT_AS, added_words
from pangu.models.text import TextTower, encoded, load_text_tower

STEPS, BATCH, LR = 60, 16, 0.1
"""LR: of Adam, as a multiple of the standard deviation of the elements of all embeddings."""
AROUND = 6
"""So many tokens stand around the word at most."""
WIDTH = 32
"""Tokens of a text, with padding behind it."""
FAR = 2.0
"""Weight of how much nearer the word is to nothing than other words are."""
BY_LARGEST = 2
"""The `eos_token_id` by which transformers tells CLIP models of before that pool where the largest token is."""


def placeholders(towers: Sequence[TextTower]) -> tuple[str, ...]:
    """The words that have a token of their own in one of the towers, in the order of the alphabet."""
    return tuple(sorted({word for tower in towers for word in added_words(tower.encoder)}))


def text_towers_of(recipe: Recipe) -> list[TextTower]:
    """The text encoders of a recipe, with tokens for the words that it gives some.

    Raises:
        UserError: nothing loadable is at a source, or a word can get no token.
    """
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    add_placeholder_tokens(towers, recipe.placeholder_tokens)
    return towers


def add_placeholder_tokens(towers: Iterable[TextTower], words: Sequence[str]) -> None:
    """Give each word a token in every tower to which it is several, in place: one that is a single token has its own.

    Raises:
        UserError: a tower reads a text where its largest token is, which the new one would be; or its tokenizer has more tokens
            than its encoder.
    """
    for tower in towers:
        known = added_words(tower.encoder)
        if new := [word for word in words if word not in known and _pieces(tower, word) > 1]:
            _add(tower, known, new)


def _pieces(tower: TextTower, word: str) -> int:
    """How many tokens a word is to a tower."""
    return len(tower.tokenizer(word, add_special_tokens=False).input_ids)


def _add(tower: TextTower, known: tuple[str, ...], new: Sequence[str]) -> None:
    from transformers import AddedToken

    encoder, tokenizer = tower.encoder, tower.tokenizer
    if getattr(encoder.config, "eos_token_id", None) == BY_LARGEST and tokenizer.eos_token_id != BY_LARGEST:
        raise UserError(
            f"A name can get no token of its own in this {type(encoder).__name__}, which reads a text at its largest token; "
            f"leave placeholder_tokens out of the recipe."
        )
    first = len(encoder.get_input_embeddings().weight)
    for place, word in enumerate(new):
        # A word in letters is none inside a longer one; Chinese has no blanks. Case and blanks before make no difference.
        token = AddedToken(word, single_word=word.isascii(), lstrip=word.isascii(), normalized=True)
        if tokenizer.add_tokens([token]) and len(tokenizer) > first + place + 1:
            raise UserError(f"'{word}' can get no token of its own: the tokenizer has more tokens than its encoder.")
    encoder.resize_token_embeddings(first + len(new), mean_resizing=False)
    encoder.requires_grad_(False)
    vocabulary = sorted(set(range(first - len(known))) - set(tokenizer.all_special_ids))
    for place, word in enumerate(new, start=first):
        embedding_c = _heard(tower, word, place, vocabulary)
        encoder.get_input_embeddings().weight[place] = embedding_c
    setattr(encoder.config, KEPT_AS, [*known, *new])


def _heard(tower: TextTower, word: str, place: int, vocabulary: Sequence[int]) -> Tensor:
    """The embedding (C,) of a word, whose token is `place`; vocabulary: of the tokens that may stand around it."""
    random, table = torch.Generator().manual_seed(_seed(word)), tower.encoder.get_input_embeddings()
    size = float(table.weight[vocabulary].float().std())
    with torch.inference_mode(False), torch.enable_grad():
        embedding_c = torch.nn.Parameter(size * torch.randn(table.weight.shape[1], generator=random))
        put = table.register_forward_hook(
            lambda _, ids, said: torch.where((ids[0] == place)[..., None], embedding_c.to(said), said)
        )
        optimizer = torch.optim.Adam([embedding_c], LR * size)
        try:
            with torch.no_grad():
                empty, *words = _said(tower, [[], *([_token(vocabulary, random)] for _ in range(2 * BATCH))])
                usual = (torch.stack(words) - empty).square().sum(1).mean()
            for _ in range(STEPS):
                alone, *among = _said(tower, [[place], *(_around(place, vocabulary, random) for _ in range(BATCH))])
                drift = (torch.stack(among) - alone).square().sum(1).mean() / usual
                loss = drift + FAR * (1 - (alone - empty).square().sum() / usual).clamp_min(0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finally:
            put.remove()
    return embedding_c.detach()


def _said(tower: TextTower, texts: Sequence[Sequence[int]]) -> Tensor:
    """(B, D) of texts as tokens, without marks of beginning and end: token embeddings on average over places, and the pooled."""
    marks: list[int] = tower.tokenizer("").input_ids
    begins = int(tower.tokenizer.bos_token_id is not None or tower.tokenizer.cls_token_id is not None)
    framed = [[*marks[:begins], *text, *marks[begins:]] for text in texts]
    padding = tower.tokenizer.pad_token_id or 0
    ids = torch.tensor([[*text, *[padding] * (WIDTH - len(text))] for text in framed])
    mask = torch.tensor([[1] * len(text) + [0] * (WIDTH - len(text)) for text in framed])
    tokens, pooled = encoded(tower, ids, mask)
    return torch.cat([tokens.flatten(1) * WIDTH**-0.5, pooled], dim=1).float()


def _around(place: int, vocabulary: Sequence[int], random: torch.Generator) -> list[int]:
    """The word among known tokens."""
    count = int(torch.randint(AROUND + 1, (), generator=random))
    before = int(torch.randint(count + 1, (), generator=random))
    some = [_token(vocabulary, random) for _ in range(count)]
    return [*some[:before], place, *some[before:]]


def _token(vocabulary: Sequence[int], random: torch.Generator) -> int:
    return vocabulary[int(torch.randint(len(vocabulary), (), generator=random))]


def _seed(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") >> 1
