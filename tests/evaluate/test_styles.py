"""Styles, templates and keywords through a real evaluation: what is drawn, among whom it is looked for, and what is reported."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pangu.data.example.openmoji import Emoji, selection
from pangu.data.images import read_rgb
from pangu.errors import UserError
from pangu.evaluate.eval_set import LEAST_EXAMPLES, Material, can_judge_styles, gather
from pangu.evaluate.evaluation import as_sampled, evaluate_whole, pair_losses, plan
from pangu.evaluate.generate import alone, draw_whole, ready, structure_half, texture_half
from pangu.evaluate.metrics import Judges, implied_metrics
from pangu.evaluate.prompt_scores import score
from pangu.evaluate.scored_prompts import PromptScores
from pangu.evaluate.style_judge import style_features, train_judge
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import tiny
from pangu.storage import Home
from tests.small_dataset import NAME, commit_rows, row

TEMPLATES = {"en": ("draw {a}", "my {}"), "zh": ("一幅{}",)}
STYLED = tiny().model_copy(update={"styles": {"negative": "negative"}})


def negative(one: Emoji, **changes: object) -> dict:
    """The same drawing with white and black exchanged."""
    plain = row(one, False)
    sink = io.BytesIO()
    ImageOps.invert(read_rgb(plain["image"])).save(sink, "PNG")
    key = hashlib.sha256(sink.getvalue()).hexdigest()
    return plain | {"image": sink.getvalue(), "key": key, "style": "negative"} | changes


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, int]:
    """Twenty drawings plain and negative, two of them held out; every keyword is shared by five drawings."""
    home = Home(tmp_path_factory.mktemp("styled"))
    rows = []
    for index, one in enumerate(selection(20)):
        words = {f"keywords_{language}": [f"word{index % 4}"] for language in ("en", "zh")}
        changes = words | {"split": "held_out" if index >= 18 else "train"}
        rows += [row(one, False, **changes), negative(one, **changes)]
    return home, commit_rows(home, rows)


@pytest.fixture(scope="module")
def protocol(styled):
    home, version = styled
    return plan(
        STYLED, home, NAME, version, Judges(), metrics=["retrieval", "style", "outside"], style_scale=2.0,
        prompts_per_language=4, num_inference_steps=2, templates=TEMPLATES, keywords=True, loss_images=4, loss_buckets=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    return untrained_pair(STYLED)


@pytest.fixture(scope="module")
def material(styled, protocol) -> Material:
    return gather(styled[0], NAME, styled[1], protocol, 96)


def only_trained(material: Material) -> Material:
    """One kind of prompt, which is less to draw."""
    return replace(material, prompts={"train": material.prompts["train"]})


def test_originals_as_the_answers_reach_everything(material, protocol) -> None:
    """The true image of every prompt in the place of a drawing: all shares are 1, and no colour lies outside."""
    drawn = {
        (ask, language): [material.images[key] for key in prompts.keys]
        for ask, prompts in material.prompts.items()
        for language in prompts.captions
    }
    metrics = score(material, drawn, protocol, Judges())
    for name in ("memory", "understanding", "memory_none", "memory_negative", "templates", "templates_t2", "keywords"):
        assert metrics[f"{name}_top1"] == metrics[f"{name}_top5"] == 1.0
    assert metrics["outside"] < 0.001
    assert (
        metrics["style_accuracy"] == metrics["style_negative_accuracy_zh"] == metrics["style_classifier_accuracy"] == 1
    )
    assert (metrics["memory_candidates"], metrics["understanding_candidates"], metrics["retrieval_candidates"]) == (
        18,
        2,
        20,
    )
    assert metrics["style_originals_accuracy"] == 1
    other = {key: images[::-1] for key, images in drawn.items()}
    assert score(material, other, protocol, Judges())["memory_top1"] < 1


@pytest.mark.long
def test_a_whole_pair_is_measured_as_it_is_and_once(styled, protocol, pair) -> None:
    home, version = styled
    outcome = evaluate_whole(pair, "somewhere", home, NAME, version, protocol)
    metrics, by_prompt = outcome.metrics, PromptScores.load(Path(outcome.prompt_scores))
    assert by_prompt.means == {name: metrics[name] for name in by_prompt.values}
    assert len(by_prompt.values["memory_negative_top5_zh"]) == len(by_prompt.values["memory_none_top5_zh"]) == 2
    assert len(by_prompt.values["templates_t1_top5_en"]) == 2 and len(by_prompt.values["templates_t1_top5_zh"]) == 4
    assert {"keywords_top5", "templates_top5", "style_accuracy", "outside", "understanding_top5"} <= metrics.keys()
    assert Path(outcome.sample_grid).is_file() and outcome.pair == "somewhere"
    assert evaluate_whole(pair, "somewhere", home, NAME, version, protocol).already_done
    Path(outcome.prompt_scores).unlink()  # so it is not all there, and is made again
    again = evaluate_whole(pair, "elsewhere", home, NAME, version, protocol)
    assert not again.already_done and Path(again.prompt_scores).is_file()
    assert (again.metrics, again.pair) == (outcome.metrics, "elsewhere")


def test_halves_and_the_whole_pipeline_draw_the_same_in_every_style(material, protocol, pair) -> None:
    pair, prompts = ready(pair, protocol), material.prompts["train"]
    whole = draw_whole(pair, only_trained(material), protocol)
    drawers, asked_for = alone(pair), only_trained(material)
    halves = texture_half(drawers, structure_half(drawers, asked_for, protocol), asked_for)
    assert whole.keys() == halves.keys() == {("train", "zh"), ("train", "en")}
    for key, images in whole.items():
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, halves[key], strict=True))
    place = prompts.styles.index("negative")
    single = pair(
        prompts.captions["en"][place], num_inference_steps=2, guidance_scale=protocol.guidance_scale,
        generator=torch.Generator().manual_seed(protocol.seed + place), styles={"negative": 2.0},
    ).images[0]  # fmt: skip
    difference = np.asarray(single).astype(int) - np.asarray(whole["train", "en"][place])
    assert abs(difference).max() <= 2  # another batch size rounds otherwise


def test_a_pair_that_never_learnt_a_style_draws_without_it(material, protocol) -> None:
    plain = ready(untrained_pair(tiny()), protocol)
    assert len(draw_whole(plain, only_trained(material), protocol)["train", "zh"]) == 4


def test_losses_of_styled_rows_are_measured_under_their_prefix(styled, protocol, pair) -> None:
    home, version = styled
    plain = protocol.model_copy(update={"styles": {}})
    losses = [pair_losses(pair, home, NAME, version, one)["loss_structure"] for one in (protocol, plain)]
    assert losses[0] != losses[1] and np.isfinite(losses).all()


def test_styles_are_asked_for_where_recipe_or_pair_and_rows_have_them(styled, bench, pair) -> None:
    home, version = styled
    known, unknown = (plan(recipe, home, NAME, version, Judges()) for recipe in (STYLED, tiny()))
    assert known.styles == {"negative": 1.0} and unknown.styles == {}
    assert can_judge_styles(home, NAME, version, ("negative",)) is (LEAST_EXAMPLES <= 18)
    assert implied_metrics(Judges(), styled=True) == ("retrieval", "style")
    assert known.metrics == unknown.metrics == ("retrieval",)  # too few examples of either style
    assert plan(as_sampled(tiny(), pair), home, NAME, version, Judges()) == known
    with pytest.raises(UserError, match="'style' needs rows in a style that the recipe knows; 'small' has none"):
        plan(STYLED, bench.home, bench.dataset, bench.version, Judges(), metrics=["style"])


@pytest.mark.long
def test_the_classifier_tells_outlines_apart_that_were_kept_from_it() -> None:
    """Images of one mean colour, with a dark frame or without, told by captions that it never saw; the same bits again."""
    generator = np.random.default_rng(0)
    images, styles = [], []
    for index in range(80):
        pixels = np.full((96, 96, 3), 128, np.uint8) + generator.integers(0, 100, (1, 1, 3), dtype=np.uint8)
        pixels[::8] = 0 if index % 2 else pixels[0, 0]
        images.append(Image.fromarray(pixels))
        styles.append("lined" if index % 2 else "")
    features = style_features(images)
    judges = [train_judge(features, styles, [f"{index // 2}" for index in range(80)]) for _ in range(2)]
    assert judges[0].accuracy == 1.0 and judges[0].styles == ("", "lined")
    assert all(torch.equal(a, b) for a, b in zip(*(j.network.state_dict().values() for j in judges), strict=True))
    with pytest.raises(UserError, match="can not be learnt from 80 training originals in 1 styles"):
        train_judge(features, [""] * 80, styles)
