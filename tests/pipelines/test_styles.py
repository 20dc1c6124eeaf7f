"""Style guidance at sampling: off it changes no bit, on it pulls, and the pair folder knows the prefixes."""

import pytest
import torch

from pangu.errors import UserError
from pangu.models.text import embed_captions
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests import subtests
from tests.pipelines.drawing import PROMPTS, draw, seeds


def test_no_style_and_a_scale_of_zero_change_no_bit(pair) -> None:
    plain = draw(pair)
    assert torch.equal(draw(pair, styles={}), plain)
    assert torch.equal(draw(pair, styles={"photo": 0.0, "cartoon": 0.0}), plain)


def test_each_style_and_its_strength_matter(pair) -> None:
    images = [draw(pair, styles=styles) for styles in ({}, {"photo": 2.0}, {"cartoon": 2.0}, {"photo": 4.0})]
    assert all(image.isfinite().all() for image in images)
    assert all(not torch.equal(images[i], images[j]) for i in range(4) for j in range(i))


def test_the_style_is_the_prompt_under_the_prefix(pair) -> None:
    condition = pair.encode_prompt(PROMPTS, styles={"cartoon": 4.0})
    tokens, pooled = embed_captions(pair.text_towers, [f"cartoon style, {prompt}" for prompt in PROMPTS], 16)
    (style,) = condition.styles
    assert torch.equal(style.prompt["tokens"], tokens) and torch.equal(style.prompt["pooled"], pooled)
    assert style.scale == 4.0


@subtests.parametrize("guidance", [1.0, 3.0])
def test_a_scale_of_one_draws_what_the_styled_caption_draws(pair, guidance) -> None:
    styled = draw(pair, styles={"photo": 1.0}, guidance_scale=guidance)
    prefix = pair.config.styles["photo"]
    asked = draw(pair, [f"{prefix} {prompt}" for prompt in PROMPTS], guidance_scale=guidance)
    torch.testing.assert_close(styled, asked, rtol=0, atol=1e-4)


@subtests.parametrize("guidance", [1.0, 3.0])
def test_a_styled_batch_equals_single_runs(pair, guidance) -> None:
    options = {"styles": {"photo": 2.0, "cartoon": 1.0}, "guidance_scale": guidance}
    batch = draw(pair, **options)
    for index, prompt in enumerate(PROMPTS):
        single = draw(pair, [prompt], seeds(index + 1), **options)
        torch.testing.assert_close(batch[index : index + 1], single, rtol=0, atol=1e-4)
    several = draw(pair, generator=seeds(1, 5, 2, 6), num_images_per_prompt=2, **options)
    torch.testing.assert_close(several[::2], batch, rtol=0, atol=1e-4)


def test_the_pair_folder_carries_the_prefixes(pair, tmp_path) -> None:
    pair.save_pretrained(tmp_path)
    again = PanGuDrawPipeline.from_pretrained(tmp_path)
    options = {"styles": {"photo": 2.0}}
    torch.testing.assert_close(draw(again, **options), draw(pair, **options), rtol=0, atol=1e-5)


def test_an_unknown_style_names_the_known_ones(pair, shared_pair) -> None:
    with pytest.raises(UserError, match="Unknown style 'oil'; this pair knows photo, cartoon"):
        draw(pair, styles={"oil": 1.0})
    with pytest.raises(UserError, match="Unknown style 'photo'; this pair knows none"):
        draw(shared_pair, styles={"photo": 1.0})
