"""Asking the served pair for images of captions that it was trained on, in both languages, with OpenAI's own client."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pangu.config import Frozen
from pangu.data.table import read_rows
from pangu.evaluate.retrieval import Retrieval, retrieval
from pangu.stack import Stack
from pangu.storage import Home

LANGUAGES = ("zh", "en")
PROMPTS = 16
AT_A_TIME = 4


class Prompt(Frozen):
    """A caption in both languages, and the key of the image that it was written for."""

    key: str
    zh: str
    en: str


@dataclass
class Answers:
    """The generated images per language, in the order of the prompts, beside the training images."""

    prompts: list[Prompt]
    truth: dict[str, Image.Image]
    images: dict[str, list[Image.Image]] = field(default_factory=dict)

    def score(self, language: str) -> Retrieval:
        """How well the images of one language find their own training image among all of them."""
        return retrieval(self.images[language], [prompt.key for prompt in self.prompts], self.truth)


def ask(stack: Stack, dataset: str, version: int, size: int) -> Answers:
    """Query the served API with `PROMPTS` captions, spread evenly over the training rows, in each language."""
    rows = read_rows(
        Home(stack.home), dataset, version, columns=["key", "image", "caption_zh", "caption_en"], split="train"
    ).to_pylist()
    rows.sort(key=lambda row: row["key"])  # content hashes: an order without meaning
    truth = {row["key"]: Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows}
    chosen = rows[:: max(len(rows) // PROMPTS, 1)][:PROMPTS]
    prompts = [Prompt(key=row["key"], zh=row["caption_zh"], en=row["caption_en"]) for row in chosen]
    answers = Answers(prompts, truth)
    client = _client(stack)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for language in LANGUAGES:
            texts = [getattr(prompt, language) for prompt in prompts]
            answers.images[language] = list(pool.map(lambda text: _generate(client, text, size), texts))
    return answers


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
        model="pangu-pair", prompt=text, size=f"{size}x{size}", response_format="b64_json", extra_body={"seed": 1}
    )
    return Image.open(io.BytesIO(base64.b64decode(response.data[0].b64_json))).convert("RGB")
