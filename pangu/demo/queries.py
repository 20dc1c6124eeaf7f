"""Asking the served pair for images in both languages, with OpenAI's own client: of captions trained on, and of others."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pangu.config import Frozen
from pangu.data.example.openmoji import Emoji
from pangu.data.images import read_rgb
from pangu.data.table.delta import read_rows
from pangu.evaluate.retrieval import Retrieval, retrieval
from pangu.stack import Stack
from pangu.starter.learning_material import unseen
from pangu.storage import Home

LANGUAGES = ("zh", "en")
PROMPTS = 16
SEED = 1
"""Of every drawing."""
AT_A_TIME = 4


class Prompt(Frozen):
    """A caption in both languages, and the key of the image that it was written for."""

    key: str
    zh: str
    en: str


@dataclass
class Answers:
    """The generated images per language, in the order of the prompts, beside the true images by key."""

    prompts: list[Prompt]
    truth: dict[str, Image.Image]
    images: dict[str, list[Image.Image]] = field(default_factory=dict)

    def score(self, language: str) -> Retrieval:
        """How well the images of one language find their own true image among all of them."""
        return retrieval(self.images[language], [prompt.key for prompt in self.prompts], self.truth)


def trained(stack: Stack, dataset: str, version: int) -> Answers:
    """`PROMPTS` captions, spread evenly over the training rows, still without answers."""
    rows = read_rows(
        Home(stack.home), dataset, version, columns=["key", "image", "caption_zh", "caption_en"], split="train"
    ).to_pylist()
    rows.sort(key=lambda row: row["key"])  # content hashes: an order without meaning
    truth = {row["key"]: read_rgb(row["image"]) for row in rows}
    prompts = [Prompt(key=row["key"], zh=row["caption_zh"], en=row["caption_en"]) for row in spread(rows)]
    return Answers(prompts, truth)


def never_trained(size: int, render: Callable[[Emoji, int], bytes]) -> Answers:
    """`PROMPTS` combinations of a person and a skin tone that the starter pair was never shown, as `render` draws them."""
    drawings = unseen()
    truth = {one.stem: read_rgb(render(one, size)) for one in drawings}
    return Answers([Prompt(key=one.stem, zh=one.caption_zh, en=one.caption_en) for one in spread(drawings)], truth)


def spread(things: list[Any]) -> list[Any]:
    """At most `PROMPTS` of them, evenly spread."""
    return things[:: max(len(things) // PROMPTS, 1)][:PROMPTS]


def ask(stack: Stack, answers: Answers, size: int) -> None:
    """Query the served API with every prompt in each language."""
    client = _client(stack)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for language in LANGUAGES:
            texts = [getattr(prompt, language) for prompt in answers.prompts]
            answers.images[language] = list(pool.map(lambda text: _generate(client, text, size), texts))


def _client(stack: Stack) -> Any:
    import openai

    return openai.OpenAI(
        base_url=f"{stack.serve_url}/v1",
        api_key="none-needed-on-loopback",
        http_client=openai.DefaultHttpxClient(trust_env=False),
        timeout=300,
    )


def _generate(client: Any, text: str, size: int) -> Image.Image:
    response = client.images.generate(
        model="pangu-pair", prompt=text, size=f"{size}x{size}", response_format="b64_json", extra_body={"seed": SEED}
    )
    return read_rgb(base64.b64decode(response.data[0].b64_json))
