"""Which texts of a request the text encoders of a release hardly know: another language, or no words at all."""

from typing import TYPE_CHECKING

from pangu.serve.inference.messages import Job, Unknown
from pangu.serve.inference.unread import texts_of

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def unknown_in(pipeline: "PanGuDrawPipeline", job: Job) -> tuple[Unknown, ...]:
    """One entry for each field of which no encoder knows the greater part."""
    from pangu.models.known_words import unknown_words

    tokenizers = [tower.tokenizer for reader in pipeline.readers().values() for tower in reader.towers]
    found = {param: unknown_words(tokenizers, text) for param, text in texts_of(job).items()}
    return tuple(Unknown(param, words) for param, words in found.items() if words)
