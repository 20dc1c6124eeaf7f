"""Asking the served pair for images in both languages, with OpenAI's own client: of captions trained on, and of others."""

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from pangu.config import Frozen, Recipe
from pangu.data.example.chalk import STYLE, render_styled
from pangu.data.example.openmoji import render_png, selection
from pangu.data.images import read_rgb
from pangu.data.table.delta import read_rows
from pangu.evaluate.retrieval import Retrieval, retrieval
from pangu.stack import Stack
from pangu.starter.pictures import unseen
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
    """The generated images per language, in the order of the prompts, beside the true images by key.

    styles: scales of the styles that are asked for.
    """

    prompts: list[Prompt]
    truth: dict[str, Image.Image]
    images: dict[str, list[Image.Image]] = field(default_factory=dict)
    styles: Mapping[str, float] = field(default_factory=dict)

    def score(self, language: str) -> Retrieval:
        """How well the images of one language find their own true image among all of them."""
        return retrieval(self.images[language], [prompt.key for prompt in self.prompts], self.truth)


def asked_styles(recipe: Recipe) -> dict[str, float]:
    """Chalk, where the recipe knows it."""
    return {STYLE: 1.0} if STYLE in recipe.styles else {}


def trained(stack: Stack, dataset: str, version: int, styles: Mapping[str, float]) -> Answers:
    """`PROMPTS` captions, spread evenly over the rows trained in chalk, still without answers."""
    columns = ["key", "image", "caption_zh", "caption_en", "style"]
    rows = read_rows(Home(stack.home), dataset, version, columns=columns, split="train").to_pylist()
    rows = [row for row in rows if row["style"] == STYLE]
    rows.sort(key=lambda row: row["key"])  # content hashes: an order without meaning
    truth = {row["key"]: read_rgb(row["image"]) for row in rows}
    prompts = [Prompt(key=row["key"], zh=row["caption_zh"], en=row["caption_en"]) for row in spread(rows)]
    return Answers(prompts, truth, styles=styles)


def without_style(answers: Answers, drawings: int, size: int) -> Answers:
    """The same prompts without any style, beside so many of OpenMoji's own drawings: what is left of the look of before."""
    truth = {one.caption_en: read_rgb(render_png(one, size)) for one in selection(drawings)}
    return Answers([prompt.model_copy(update={"key": prompt.en}) for prompt in answers.prompts], truth)


def never_trained(size: int, style: str | None = None, styles: Mapping[str, float] | None = None) -> Answers:
    """`PROMPTS` combinations of a person and a skin tone that no training of the starter pair ever saw, drawn in `style`."""
    drawings = unseen()
    truth = {one.stem: read_rgb(render_styled(replace(one, style=style), size)) for one in drawings}
    prompts = [Prompt(key=one.stem, zh=one.caption_zh, en=one.caption_en) for one in spread(drawings)]
    return Answers(prompts, truth, styles=styles or {})


def spread(things: list[Any]) -> list[Any]:
    """At most `PROMPTS` of them, evenly spread."""
    return things[:: max(len(things) // PROMPTS, 1)][:PROMPTS]


def ask(stack: Stack, answers: Answers, size: int) -> None:
    """Query the served API with every prompt in each language."""
    client = _client(stack)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for language in LANGUAGES:
            texts = [getattr(prompt, language) for prompt in answers.prompts]
            answers.images[language] = list(pool.map(lambda text: _generate(client, text, size, answers.styles), texts))


def _client(stack: Stack) -> Any:
    import openai

    return openai.OpenAI(
        base_url=f"{stack.serve_url}/v1",
        api_key="none-needed-on-loopback",
        http_client=openai.DefaultHttpxClient(trust_env=False),
        timeout=300,
    )


def _generate(client: Any, text: str, size: int, styles: Mapping[str, float]) -> Image.Image:
    extensions = {"seed": SEED} | ({"style": dict(styles)} if styles else {})
    response = client.images.generate(
        model="pangu-pair", prompt=text, size=f"{size}x{size}", response_format="b64_json", extra_body=extensions
    )
    return read_rgb(base64.b64decode(response.data[0].b64_json))
