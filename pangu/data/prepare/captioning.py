"""Images to captions, by any image-to-text model that transformers loads."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.models.sources import locate

BATCH = 8
LONGEST_SIDE = 1024
"""Larger images are made smaller before they wait for their batch, px; the models' own sizes are 224 to 768."""


class Captioner:
    """A frozen model of `AutoModelForImageTextToText`: BLIP, GIT, an encoder with a decoder (ViT-GPT2), one that chats.

    Args:
        prompt: What a model that chats is asked, or the words that another one goes on from ("" for none).

    Raises:
        UserError: nothing loadable is at the source.
    """

    def __init__(self, source: str, prompt: str, max_tokens: int) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.name, self._prompt, self._max_tokens = source, prompt, max_tokens
        try:
            place = locate(source, "captioner")
            model: Any = AutoModelForImageTextToText.from_pretrained(place, use_safetensors=True)
            processor = AutoProcessor.from_pretrained(place)
            self._processor: Any = processor if hasattr(processor, "image_processor") else _Pair(place)
        except (OSError, ValueError, KeyError) as error:
            what = " ".join(str(error).split())[:200]
            raise UserError(f"The captioning model '{source}' of fill_captions cannot be loaded: {what}.") from error
        self._model = model.eval().to(best_device())
        self._chats = getattr(processor, "chat_template", None) is not None
        # What is generated goes on from the right end of a prompt.
        self._processor.tokenizer.padding_side = "left"

    @torch.inference_mode()
    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption for each, by greedy decoding: the same images give the same answer."""
        written: list[str] = []
        for start in range(0, len(images), BATCH):
            inputs = self._inputs(list(images[start : start + BATCH]))
            output = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False, num_beams=1)
            if self._chats:
                output = output[:, inputs["input_ids"].shape[1] :]  # the answer without the question
            texts = self._processor.tokenizer.batch_decode(output, skip_special_tokens=True)
            written += [" ".join(text.split()) for text in texts]
        return written

    def _inputs(self, images: list[Image.Image]) -> Any:
        layout = {"padding": True, "return_tensors": "pt"}
        if self._chats:
            asked = [{"type": "image"}, {"type": "text", "text": self._prompt}]
            text = self._processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
            # One list an image: a flat one may be taken for the pictures of a single question.
            found = self._processor(images=[[image] for image in images], text=[text] * len(images), **layout)
        elif self._prompt:
            found = self._processor(images=images, text=[self._prompt] * len(images), **layout)
        else:
            found = self._processor(images=images, return_tensors="pt")
        return found.to(self._model.device)


class _Pair:
    """The processor of models that have none of their own: an image processor, and the tokenizer of the decoder."""

    def __init__(self, place: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer

        self.image_processor, self.tokenizer = (
            AutoImageProcessor.from_pretrained(place),
            AutoTokenizer.from_pretrained(place),
        )

    def __call__(self, images: list[Image.Image], text: list[str] | None = None, **layout: Any) -> Any:
        found = self.image_processor(images=images, return_tensors="pt")
        if text is not None:
            tokens = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
            found["decoder_input_ids"] = tokens["input_ids"]
        return found


def made_small(image: Image.Image) -> Image.Image:
    """At most `LONGEST_SIDE` px, so that a batch of photographs fits into memory."""
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small
