"""A missing language of a caption, written by a translation model and marked as such. Knows nothing of images or tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pangu.data.card import FillCaptions
from pangu.errors import UserError
from pangu.models.sources import locate

BATCH = 32
DIRECTIONS = (("en_to_zh", "caption_en", "caption_zh"), ("zh_to_en", "caption_zh", "caption_en"))


class CaptionFiller:
    """The translators that a card names.

    Raises:
        UserError: one of them cannot be loaded.
    """

    def __init__(self, settings: FillCaptions) -> None:
        self._settings = settings
        self._translators = {
            direction: _Translator(source, settings)
            for direction, _, _ in DIRECTIONS
            if (source := getattr(settings, direction)) is not None
        }

    def fill(self, rows: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The same rows with both captions where a model could write one, and by whom in `caption_XX_by`."""
        filled = {number: dict(row) for number, row in rows.items()}
        for direction, have, want in DIRECTIONS:
            translator = self._translators.get(direction)
            lacking = [row for row in filled.values() if translator and row[have] and not row[want]]
            if translator and lacking:
                for row, text in zip(lacking, translator.translate([row[have] for row in lacking]), strict=True):
                    row[want], row[f"{want}_by"] = text, translator.name if text else ""
        return filled


class _Translator:
    def __init__(self, source: str, settings: FillCaptions) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.name, self._settings = source, settings
        try:
            place = locate(source, "translator")
            self._model = AutoModelForSeq2SeqLM.from_pretrained(place, use_safetensors=True).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            raise UserError(f"The translation model '{source}' of fill_captions cannot be loaded: {what}.") from error

    @torch.inference_mode()
    def translate(self, texts: Sequence[str]) -> list[str]:
        """One text for each, by greedy decoding: the same texts give the same answer."""
        written: list[str] = []
        for start in range(0, len(texts), BATCH):
            batch = [self._settings.prefix + text for text in texts[start : start + BATCH]]
            limits = {"truncation": True, "max_length": self._settings.max_tokens}
            tokens = self._tokenizer(batch, padding=True, return_tensors="pt", **limits)
            tokens.pop("token_type_ids", None)
            output = self._model.generate(
                **tokens, max_new_tokens=self._settings.max_tokens, do_sample=False, num_beams=1
            )
            written += [text.strip() for text in self._tokenizer.batch_decode(output, skip_special_tokens=True)]
        return written
