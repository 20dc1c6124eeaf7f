"""A missing language of a caption, written by a model and marked as such: translated where the other language is there, or else
read off the image, by a model here or a served one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from pangu.data.captions import LANGUAGES, MORE
from pangu.data.fill_captions import LACKS, FillCaptions
from pangu.data.images import ImageHWC
from pangu.data.prepare.captioning import BATCH as IMAGES_AT_ONCE
from pangu.data.prepare.captioning import Captioner, made_small
from pangu.data.prepare.chat_endpoint import Door
from pangu.data.prepare.served_captions import UNUSABLE, ServedCaptions
from pangu.errors import UserError
from pangu.models.sources import locate

BATCH = 32
TRANSLATORS = {"zh": "en_to_zh", "en": "zh_to_en"}
"""Of `FillCaptions`, by the language that it writes."""
OTHER = {"en": "zh", "zh": "en"}
Rows = Mapping[int, dict[str, Any]]
Look = Callable[[Collection[int]], Iterator[tuple[int, ImageHWC]]]
"""Row numbers to the pixels of those of them that can be decoded, one after the other."""


class CaptionFiller:
    """The models that a card names.

    Args:
        door: To a served one; None: where the environment says.

    Raises:
        UserError: one of them cannot be loaded, or nobody says where it is served.
    """

    def __init__(self, settings: FillCaptions, door: Door | None = None) -> None:
        self._served = ServedCaptions(settings.server, door or Door.from_environment()) if settings.server else None
        self._translators, self._captioners = dict[str, _Translator](), dict[str, Captioner]()
        for language in LANGUAGES:
            if (source := getattr(settings, TRANSLATORS[language])) is not None:
                self._translators[language] = _Translator(source, settings)
            if (source := getattr(settings, f"image_to_{language}")) is not None:
                prompt = getattr(settings, f"prompt_{language}")
                self._captioners[language] = Captioner(source, prompt, settings.max_tokens)

    def fill(self, rows: Rows, look: Look) -> dict[int, dict[str, Any]]:
        """The same rows with both captions where a model could write one, and by whom in `caption_XX_by`."""
        filled = {number: dict(row) for number, row in rows.items()}
        if self._served is not None:
            self._ask(self._served, filled, look)
        for language, captioner in self._captioners.items():
            seen = {n for n, row in filled.items() if not row[_caption(language)] and not self._reads(row, language)}
            for batch in _batches(look(seen)):
                texts = captioner.describe([image for _, image in batch])
                for (number, _), text in zip(batch, texts, strict=True):
                    _write(filled[number], language, text, captioner.name)
        for language, translator in self._translators.items():
            lacking = [row for row in filled.values() if not row[_caption(language)] and self._reads(row, language)]
            texts = translator.translate([row[_caption(OTHER[language])] for row in lacking])
            for row, text in zip(lacking, texts, strict=True):
                _write(row, language, text, translator.name)
        return filled

    def _ask(self, served: ServedCaptions, filled: dict[int, dict[str, Any]], look: Look) -> None:
        """Short captions where a language is missing, long ones behind them; what has neither after that says why."""
        asked = {}
        for number, row in filled.items():
            if wanted := served.wanted(row, [language for language in LANGUAGES if self._reads(row, language)]):
                asked[number] = row, wanted
        for number, found in served.describe(asked, look(asked.keys())):
            row = filled[number]
            for (_, language), text in found.items():
                if not row[_caption(language)]:
                    _write(row, language, text, served.name)
                else:
                    row[MORE[language]] = [*(row.get(MORE[language]) or ()), text]
                    row[f"{MORE[language]}_by"] = served.name
            if not any(row[_caption(language)] for language in LANGUAGES):
                row[LACKS] = UNUSABLE

    def _reads(self, row: Mapping[str, Any], language: str) -> bool:
        """Whether a translator into the language is there, and something for it to read."""
        return language in self._translators and bool(row[_caption(OTHER[language])])


def _caption(language: str) -> str:
    return f"caption_{language}"


def _write(row: dict[str, Any], language: str, text: str, by: str) -> None:
    row[_caption(language)], row[f"caption_{language}_by"] = text, by if text else ""


def _batches(pictures: Iterator[tuple[int, ImageHWC]]) -> Iterator[list[tuple[int, Image.Image]]]:
    batch: list[tuple[int, Image.Image]] = []
    for number, image_hwc in pictures:
        batch.append((number, made_small(Image.fromarray(image_hwc))))
        if len(batch) == IMAGES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


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
