"""The embedded pair: fits its encoders and the size it may have, and draws what it was never shown."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image

from pangu.config import ROLES
from pangu.data.card import load_card
from pangu.data.example.openmoji import catalogue, render_png, selection
from pangu.data.images import read_rgb
from pangu.demo.queries import Answers, Prompt, never_trained, spread
from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser
from pangu.pipelines.assemble import untrained_pair
from pangu.planning.operations import Shapes
from pangu.recipes import demo, recipe, starter, tiny
from pangu.serve.inference.parts import capabilities_of
from pangu.starter.learning_material import learning_material
from pangu.starter.pair import pack_pair, starter_pair
from pangu.starter.proposed import DRAWINGS, WORDINGS, proposed

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


def test_all_embedded_weights_together_stay_below_32_megabytes() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 32e6


@pytest.mark.parametrize("name", ["openmoji_all", "emoji_artists"])
def test_no_training_of_these_cards_sees_the_held_out_combinations(name: str) -> None:
    card, (_, held_out) = load_card(name), learning_material()
    assert set(card.splits.held_out.captions_en) == {one.caption_en for one in held_out}
    assert all(card.split_of(one.caption_en, "") == "held_out" for one in held_out)


def test_the_embedded_pair_says_what_it_was_trained_with() -> None:
    pair = starter_pair()
    assert {pair.contract(role).dataset for role in ROLES} == {"emoji_artists"}
    assert pair.config.styles == starter().styles
    assert set(capabilities_of(ASSETS / "starter_pair").styles) == set(starter().styles)


@pytest.mark.parametrize("name", ["starter", "demo", "single"])
def test_a_recipe_that_may_start_from_the_embedded_pair_makes_networks_of_its_shape(name: str) -> None:
    shapes = Shapes(recipe(name))
    with torch.device("meta"):
        network = build_denoiser(shapes.recipe.denoiser, shapes.latent_channels, shapes.tokens, shapes.pooled)
    own, pair = network.state_dict(), starter_pair()
    for role in ROLES:
        embedded = pair.generator(role).state_dict()
        assert {part: tensor.shape for part, tensor in embedded.items()} == {part: own[part].shape for part in own}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_combinations_never_trained_find_their_true_drawing(language: str) -> None:
    score = draw(never_trained(96, render_png), language, 8).score(language)
    assert score.candidates >= 150
    assert score.top5 >= 0.8
    assert score.top1 >= 0.5


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_it_proposes_finds_the_drawing_that_is_meant(language: str) -> None:
    """Each way of asking twice, among 400 drawings."""
    meant = [one for one in catalogue() if one.caption_en in DRAWINGS]
    truth = {one.caption_en: read_rgb(render_png(one, 96)) for one in selection(400) + meant}
    texts = proposed()
    prompts = [Prompt(key=name, zh=zh, en=en) for name, zh, en in zip(DRAWINGS, texts["zh"], texts["en"], strict=True)]
    score = draw(Answers(prompts, truth), language, 2 * len(WORDINGS[language])).score(language)
    assert score.candidates >= 400
    assert score.top5 >= 0.8


def test_the_pair_the_page_and_the_documentation_propose_drawings_of_the_list_in_the_words_of_people() -> None:
    known = {name for one in catalogue() for name in (one.caption_en, one.caption_zh)}
    offered = capabilities_of(ASSETS / "starter_pair").model_dump(mode="json")["prompts"]
    assert starter_pair().config.prompts == proposed() == offered
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/serving.md")]
    called = re.compile(
        r"""(?:prompt=|"prompt": |--prompt |(?:pair|coop(?:\.plan)?|encode_prompt)\(\[?)"([^"]+)"(?:, "([^"]+)"\])?"""
    )
    asked = {text for page in texts for found in called.findall(page) for text in found if text}
    assert {"fox", "狐狸", "向日葵"} <= asked and asked <= known.union(*proposed().values())


def test_generators_of_other_encoders_are_not_packed(tmp_path: Path) -> None:
    pair = untrained_pair(tiny())
    for role in ("structure", "texture"):
        pair.generator(role).save_pretrained(tmp_path / role)
        other = pair.contract(role).model_copy(update={"autoencoder_hash": "0" * 16})
        other.save(tmp_path / role)
    with pytest.raises(UserError, match="trained on latents of autoencoder 0000"):
        pack_pair(tmp_path / "structure", tmp_path / "texture", tiny(), tmp_path / "packed")
