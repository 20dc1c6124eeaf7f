"""Words that were added to the vocabulary of a frozen text encoder, behind all that it came with."""

from typing import Any

from torch import Tensor

from pangu.models.hashing import architecture

KEPT_AS = "placeholder_tokens"
"""The field of an encoder's configuration that names them; they are the last of its vocabulary, in that order."""


def added_words(encoder: Any) -> tuple[str, ...]:
    """The words that have tokens of their own in an encoder."""
    return tuple(getattr(encoder.config, KEPT_AS, None) or ())


def without_added_words(encoder: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(architecture, tensors) of an encoder as it was before it had any."""
    count, shape, tensors = len(added_words(encoder)), architecture(encoder.config), encoder.state_dict()
    shape.pop(KEPT_AS, None)
    if not count:
        return shape, tensors
    table = encoder.get_input_embeddings().weight
    own = {name: tensor[:-count] for name, tensor in tensors.items() if tensor.data_ptr() == table.data_ptr()}
    return shape | {"vocab_size": shape["vocab_size"] - count}, tensors | own
