"""The embedded pair: fits its encoders and the size it may have, and draws what it was never shown."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pangu.data.card import load_card
from pangu.data.example.layers import OUTLINE, in_style
from pangu.data.example.openmoji import catalogue, render_png
from pangu.data.wording import worded
from pangu.demo.queries import Answers, never_trained, spread
from pangu.errors import UserError
from pangu.models.known_words import unknown_words
from pangu.pipelines import CoopPipeline, PanGuDrawPipeline
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import demo, tiny
from pangu.sentences import UNTRAINED_TEMPLATES
from pangu.serve.inference.parts import capabilities_of
from pangu.starter.learning_material import learning_material, pixels
from pangu.starter.pair import pack_pair, starter_pair
from pangu.starter.proposed import proposed
from tests import subtests

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
ASSETS = Path(str(files("pangu"))) / "assets"


def draw(answers: Answers, language: str, count: int) -> Answers:
    """The same answers with the first `count` prompts drawn in `language`."""
    pair = starter_pair()
    pair.set_progress_bar_config(disable=True)
    prompts = spread(answers.prompts)[:count]
    images: list[Image.Image] = pair(
        [getattr(prompt, language) for prompt in prompts],
        num_inference_steps=demo().sampling.num_inference_steps,
        guidance_scale=demo().sampling.guidance_scale,
        generator=[torch.Generator().manual_seed(index) for index in range(count)],
    ).images
    return Answers(prompts, answers.truth, {language: images})


@checks
def all_embedded_weights_together_stay_below_twenty_two_megabytes() -> None:
    """A seventh of them is the style."""
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 22e6


@subtests.parametrize("name", ["openmoji_all", "emoji_artists"])
def test_no_training_of_these_cards_sees_the_held_out_combinations(name: str) -> None:
    card, (_, held_out) = load_card(name), learning_material()
    assert set(card.splits.held_out.captions_en) == {one.caption_en for one in held_out}
    assert all(card.split_of(one.caption_en, "") == "held_out" for one in held_out)


@checks
def the_embedded_pair_says_which_card_it_was_trained_with() -> None:
    assert starter_pair().contract("structure").dataset == "openmoji_all"


def test_combinations_never_trained_find_their_true_drawing() -> None:
    answers = never_trained(96, render_png)
    for language in ("zh", "en"):
        score = draw(answers, language, 8).score(language)
        assert score.candidates >= 150, language
        assert score.top5 >= 0.8, language
        assert score.top1 >= 0.5, language


@subtests.parametrize("language", ["zh", "en"])
def test_what_people_write_draws_what_the_caption_as_listed_draws(language: str) -> None:
    """Sentences that training never used, a keyword, and the emoji itself."""
    pair, listed = starter_pair(), {one.caption_en: one for one in catalogue()}
    pair.set_progress_bar_config(disable=True)
    asked = [listed[name] for name in ("fox", "umbrella", "snowman", "cactus", "teapot", "pizza")]
    own = [one.caption_en if language == "en" else one.caption_zh for one in asked]
    sentences = [worded(one, text) for one, text in zip(UNTRAINED_TEMPLATES[language], own, strict=True)]

    def drawn(texts: list[str]) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(5) for _ in texts]
        found = pair(texts, num_inference_steps=8, generator=seeds, output_type="pt").images
        return torch.nn.functional.interpolate(found, 16, mode="area").flatten(1)

    plain = drawn(own)
    for texts in (sentences, [one.text for one in asked]):
        nearest = torch.cdist(drawn(texts), plain).argmin(dim=1)
        assert int((nearest == torch.arange(len(own))).sum()) >= 5, texts


def test_what_the_page_proposes_is_what_people_write() -> None:
    """And the documentation asks for nothing but drawings that the pair knows."""
    pair = starter_pair()
    assert pair.config.prompts == proposed()
    every = [text for texts in proposed().values() for text in texts]
    assert not any(unknown_words([pair.tokenizer], text) for text in every)
    assert capabilities_of(ASSETS / "starter_pair").model_dump(mode="json")["prompts"] == proposed()
    known = {text for one in catalogue() for text in (one.caption_en, one.caption_zh)}
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/serving.md")]
    called = re.compile(
        r"""(?:prompt=|"prompt": |--prompt |(?:pair|coop(?:\.plan)?|encode_prompt)\(\[?)"([^"]+)"(?:, "([^"]+)"\])?"""
    )
    asked = {text for page in texts for found in called.findall(page) for text in found if text}
    assert {"a fox", "画一只狐狸", "狐狸", "向日葵"} <= asked
    assert all(any(name in text for name in known) for text in asked)


def test_the_style_of_the_embedded_pair_is_the_outlines_of_its_drawings() -> None:
    """Each picture is nearest to its own drawing, of 6 in 2 styles."""
    pair, listed = starter_pair(), {one.caption_en: one for one in catalogue()}
    pair.set_progress_bar_config(disable=True)
    assert pair.styles == (OUTLINE,)
    asked = [listed[name] for name in ("red apple", "umbrella", "grinning face", "cactus", "teapot", "pizza")]

    def thumbnails(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(images, 16, mode="area").flatten(1)

    drawn, true = [], []
    for style in (None, OUTLINE):
        seeds = [torch.Generator().manual_seed(5) for _ in asked]
        options = {"num_inference_steps": 10, "generator": seeds, "output_type": "pt"}
        texts = [one.caption_en for one in asked]
        drawn.append(thumbnails(pair(texts, styles={style: 1.0} if style else None, **options).images))
        originals = asked if style is None else in_style(asked, style)
        images = torch.from_numpy(pixels(originals, 96)).permute(0, 3, 1, 2).float() / 255
        true.append(thumbnails(images))
    nearest = torch.cdist(torch.cat(drawn), torch.cat(true)).argmin(dim=1)
    assert int((nearest == torch.arange(12)).sum()) >= 11, nearest


@checks
def generators_of_other_encoders_are_not_packed(tmp_path: Path) -> None:
    pair = untrained_pair(tiny())
    for role in ("structure", "texture"):
        pair.generator(role).save_pretrained(tmp_path / role)
        other = pair.contract(role).model_copy(update={"autoencoder_hash": "0" * 16})
        other.save(tmp_path / role)
    with pytest.raises(UserError, match="trained on latents of autoencoder 0000"):
        pack_pair(tmp_path / "structure", tmp_path / "texture", tiny(), tmp_path / "packed")


@checks
def the_pair_of_the_package_is_found_by_its_name_by_both_pipelines() -> None:
    pair = PanGuDrawPipeline.from_pretrained("embedded")
    coop = CoopPipeline("embedded")

    def drawn(pipe: Any) -> Any:
        pipe.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3), "output_type": "np"}
        return pipe("fox", guidance_scale=1.0, **options).images

    assert abs(drawn(pair) - drawn(coop)).max() < 1e-4
    half = PanGuDrawPipeline.from_pretrained("embedded", torch_dtype=torch.bfloat16)
    assert half.structure.dtype == half.text_encoder.dtype == torch.bfloat16


test_pair = checks.test()


def test_without_guidance_each_half_has_what_the_pair_prefers() -> None:
    pair, drawn = starter_pair(), []
    pair.set_progress_bar_config(disable=True)
    assert (pair.sampling.guidance_scale, pair.sampling.texture_guidance) == (3.0, 1.5)
    for guidance in (None, {"structure": 3.0, "texture": 1.5}, 3.0):
        noise = torch.Generator().manual_seed(0)
        drawn.append(
            pair("fox", num_inference_steps=4, guidance_scale=guidance, generator=noise, output_type="pt").images
        )
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
