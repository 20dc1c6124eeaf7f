"""Text, or embeddings of text, as the condition of a trajectory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pangu.errors import UserError
from pangu.models.text import TextTower, embed_captions, styled_caption, warn_of_truncation, warn_of_unknown_words
from pangu.models.text_windows import embed_windows, windows_of
from pangu.pipelines import pair_inputs
from pangu.sampling.condition import Condition, Style, text, text_condition


@dataclass(frozen=True)
class Reader:
    """Text towers, the tokens that each reads, and where they compute; None means where their weights are.

    warns: text beyond `max_tokens`, and text of unknown words, is logged. in_windows: text beyond `max_tokens` is read, too, in
    further `windows` of so many tokens.
    scores: of aesthetics, of prompts and of negative ones, which stand behind the pooled text; None where nobody reads any.
    """

    towers: Sequence[TextTower]
    max_tokens: int
    device: torch.device | None = None
    warns: bool = True
    scores: tuple[float, float] | None = None
    in_windows: bool = False
    windows: int = 1

    def opened(self, texts: Sequence[str]) -> "Reader":
        """A reader with as many windows as these texts need, so that all of them have one length."""
        if not self.in_windows or not self.towers:
            return self
        pair_inputs.check_texts(texts)
        return replace(self, windows=windows_of(self.towers, texts, self.max_tokens))

    def read(self, texts: Sequence[str], negatives: int = 0) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) and pooled (B, P) of B texts, the last of which are negative prompts.

        Raises:
            UserError: there is no text encoder, or a text is not valid.
        """
        pair_inputs.check_texts(texts)
        if not self.towers:
            raise UserError(
                "This pipeline was loaded without its text encoder; give embeddings, negative ones included."
            )
        if self.warns:
            warn_of_truncation(self.towers, texts, self.max_tokens, self.windows)
            warn_of_unknown_words(self.towers, texts)
        tokens, pooled = (
            embed_windows(self.towers, texts, self.max_tokens, self.windows, self.device)
            if self.windows > 1
            else embed_captions(self.towers, texts, self.max_tokens, self.device)
        )
        if self.scores is None:
            return tokens, pooled
        told = [self.scores[0]] * (len(texts) - negatives) + [self.scores[1]] * negatives
        return tokens, torch.cat([pooled, pooled.new_tensor(told)[:, None]], dim=1)


def from_text(
    reader: Reader,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    styles: Mapping[str, float],
    prefixes: Mapping[str, str],
    adapted: Collection[str] = (),
) -> Condition:
    """The condition of B prompts, also under the prefix of each style that has a scale other than 0.

    adapted: styles that no prefix asks for, but adapters of the networks.

    Raises:
        UserError: another number of negative prompts, or a style that is neither.
    """
    negatives = [""] * len(prompts) if negatives is None else negatives
    pair_inputs.check_negatives(prompts, negatives)
    pair_inputs.check_styles(styles, [*prefixes, *adapted])
    drawn = {name: scale for name, scale in styles.items() if scale != 0}
    worded = {
        name: [styled_caption(prompt, prefixes[name]) for prompt in prompts] for name in drawn if name in prefixes
    }
    reader = reader.opened([*prompts, *negatives, *(each for texts in worded.values() for each in texts)])
    both = reader.read([*prompts, *negatives], len(negatives))
    (tokens, negative_tokens), (pooled, negative_pooled) = (tensor.chunk(2) for tensor in both)
    styled = [Style(text(*reader.read(texts)), styles[name]) for name, texts in worded.items()]
    others = {name: scale for name, scale in drawn.items() if name not in prefixes}
    return text_condition(tokens, pooled, negative_tokens, negative_pooled, styled, adapters=others)


def from_embeds(
    reader: Reader, embeds: pair_inputs.Embeds, negatives: Sequence[str] | None, needs_negative: bool
) -> Condition:
    """The condition of checked embeddings; negative ones that are not given are read from text, or from the empty caption.

    Raises:
        UserError: negative ones are needed, but neither given nor readable.
    """
    tokens, pooled = embeds.prompt, embeds.pooled
    assert tokens is not None and pooled is not None
    if embeds.negative is not None and embeds.negative_pooled is not None:
        return text_condition(tokens, pooled, embeds.negative, embeds.negative_pooled)
    if not reader.towers and not needs_negative:
        return text_condition(tokens, pooled, torch.zeros_like(tokens), torch.zeros_like(pooled))
    negative, negative_pooled = reader.read([""] * len(tokens) if negatives is None else negatives, len(tokens))
    return text_condition(tokens, pooled, negative.to(tokens), negative_pooled.to(pooled))
