"""Rows encoded while training: the same as precomputed ones but for rounding, trainable, and of no file of an upscaled row."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pangu.config import Execution, Recipe
from pangu.data.captions import Caption
from pangu.data.encode.encoded import EncodedManifest, check_encoded
from pangu.data.encode.stage import encode
from pangu.data.encode.views import windows
from pangu.data.example.openmoji import selection
from pangu.data.rows import on_the_fly as on_the_fly_rows
from pangu.data.rows.image_copy import ImageCopy
from pangu.data.rows.load import load_rows
from pangu.data.rows.on_the_fly import OnTheFlyRows
from pangu.data.table.delta import read_rows
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.text import embed_captions, load_text_tower
from pangu.recipes import tiny
from pangu.storage import Home
from pangu.train.loop import train_loop
from pangu.train.randomness import draw_batch
from tests import subtests
from tests.data.shaped import shaped_recipe, styled_row
from tests.small_dataset import NAME, commit_rows, row, small_dataset
from tests.train.rows import plain_timesteps

MORE_CAPTIONS = {
    0: {"more_captions_en": ["a drawing of it", "something else"]},  # with a style
    3: {"more_captions_en": ["a drawing"], "more_captions_zh": ["一幅画", "别的", "图"]},
    7: {"caption_en": "", "more_captions_zh": ["别的"]},
}
"""By the place of the row."""


def on_the_fly(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"execution": Execution(latents="on_the_fly", prefetch=0)})


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Home, Recipe, Path, Path]:
    """One dataset with two shapes and some styles: encoded before, and to be encoded while training."""
    home = Home(tmp_path_factory.mktemp("home"))
    rows = [styled_row(one, style) for one, style in zip(selection(6), ["photo", None] * 3, strict=True)]
    rows += [row(one, True) for one in selection(12)[6:]]
    for values in rows[:2]:
        values |= {"width": 64}  # cropped to a tall shape
    for values, more in MORE_CAPTIONS.items():
        rows[values] |= more
    version = commit_rows(home, rows)
    recipe = shaped_recipe(lower_side=48).model_copy(update={"styles": {"photo": "A photo of"}})
    folders = [home.encoded(NAME, encode(NAME, version, one, home).encode_id) for one in (recipe, on_the_fly(recipe))]
    return home, recipe, folders[0], folders[1]


@subtests.parametrize("role", ["structure", "texture"])
def test_they_equal_precomputed_rows_but_for_rounding(role, both) -> None:
    _, recipe, before, now = both
    stored, fresh = load_rows(before, role), load_rows(now, role, on_the_fly(recipe))
    assert isinstance(fresh, OnTheFlyRows)
    beside = load_rows(now, role, on_the_fly(recipe), like=fresh)
    assert isinstance(beside, OnTheFlyRows) and beside.loaded is fresh.loaded, "a mixture loads its encoders once"
    assert torch.equal(beside.latents([0]), fresh.latents([0]))
    assert list(stored.keys) == list(fresh.keys)
    for name in ("min_timestep_n", "preset_n"):
        assert torch.equal(getattr(stored, name), getattr(fresh, name))
    wordings = fresh.wordings(range(len(fresh)))
    same = [(one.styled, one.captions) for one in wordings]
    assert [(one.styled, one.captions) for one in stored.wordings(range(len(stored)))] == same
    assert len(fresh.preset_n.unique()) == 2
    for preset in fresh.preset_n.unique().tolist():
        bucket = torch.nonzero(fresh.preset_n == preset).flatten().tolist()
        torch.testing.assert_close(fresh.latents(bucket), stored.latents(bucket).float(), atol=4e-3, rtol=4e-3)
        torch.testing.assert_close(fresh.lower(bucket), stored.lower(bucket).float(), atol=4e-3, rtol=4e-3)
        variants = [
            -1 if place == 1 else (2 if wordings[index].styled else place % 2) for place, index in enumerate(bucket)
        ]
        for number in (0, 1, -1):
            numbers = [number % count for count in (wordings[index].captions for index in bucket)]
            shown = list(map(Caption, variants, numbers))
            pairs = zip(fresh.captions(bucket, shown), stored.captions(bucket, shown), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs.float(), atol=4e-3, rtol=4e-3)


def test_every_caption_of_a_row_is_drawn_as_often_as_the_others(both) -> None:
    home, recipe, before, _ = both
    rows, towers = load_rows(before, "structure"), [load_text_tower(source) for source in recipe.text_encoders]
    table = read_rows(home, NAME, 0).to_pylist()
    plain = recipe.optimization.model_copy(update={"caption_dropout": 0.0, "style_share": 0.0})
    for values in (one for one in table if one["more_captions_en"] or one["more_captions_zh"]):
        at = list(rows.keys).index(values["key"])
        own = {name: [values[f"caption_{name}"], *(values[f"more_captions_{name}"] or [])] for name in ("en", "zh")}
        own = {name: list(filter(None, texts)) or list(filter(None, own["zh"])) for name, texts in own.items()}
        assert rows.wordings([at])[0].captions == max(map(len, own.values()))
        for zh_share, texts in ((0.0, own["en"]), (1.0, own["zh"])):
            optimization = plain.model_copy(update={"zh_share": zh_share})
            timesteps = plain_timesteps(rows, TimeInterval(500, 1000))
            drawn = [draw_batch(rows, [at], 5, step, 0, timesteps, optimization).pooled_bp for step in range(90)]
            expected = embed_captions(towers, texts, recipe.max_tokens)[1].float()
            nearest = torch.cdist(torch.cat(drawn).float(), expected)
            assert nearest.min(1).values.max() < 0.05, "half precision; other captions are ten away"
            counts = nearest.argmin(1).bincount(minlength=len(texts))
            assert counts.min() > 90 / len(texts) / 3, counts
            again = draw_batch(rows, [at], 5, 17, 0, timesteps, optimization)
            assert torch.equal(again.pooled_bp, drawn[17])


def test_no_latents_are_stored(both) -> None:
    _, recipe, _, now = both
    assert sorted(path.name for path in now.iterdir()) == [
        "autoencoder.json", "empty_caption.safetensors", "manifest.json",
    ]  # fmt: skip
    check_encoded(EncodedManifest.load(now), on_the_fly(recipe), "structure")
    with pytest.raises(UserError, match="latents precomputed, but the dataset was encoded with on_the_fly"):
        check_encoded(EncodedManifest.load(now), recipe, "structure")


def test_a_generator_trains_on_them(tmp_path) -> None:
    home = Home(tmp_path)
    version = small_dataset(home)
    recipe = on_the_fly(shaped_recipe(presets="square", steps=2))
    outcome = encode(NAME, version, recipe, home)
    rows = load_rows(home.encoded(NAME, outcome.encode_id), "texture", recipe)
    crop = windows(recipe.texture, 8)
    trained = train_loop("texture", recipe, rows, outcome.encode_id, tmp_path / "checkpoints", windows=crop)
    assert trained.steps == 2
    assert trained.loss > 0


def test_texture_opens_no_file_of_upscaled_rows(both) -> None:
    home, _, _, now = both
    manifest = EncodedManifest.load(now)
    opened = {
        role: ImageCopy.of(home, NAME, manifest.version, manifest.job(role)).files for role in ("structure", "texture")
    }
    assert len(opened["structure"]) == 2
    assert [Path(file).parent.name for file in opened["texture"]] == ["upscaled=false"]


def test_other_encoders_than_those_of_the_contract_are_refused(both) -> None:
    _, recipe, _, now = both
    with pytest.raises(UserError, match=r"encoders of recipe 'tiny' are not those of"):
        load_rows(now, "structure", on_the_fly(recipe).model_copy(update={"max_tokens": 20}))


class Elsewhere:
    """An autoencoder on a device that nothing can be brought back from; keeps how many images it was given at once."""

    device, dtype = torch.device("meta"), torch.float32
    config = load_autoencoder(tiny().autoencoder).config

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, pixels_bchw: torch.Tensor) -> SimpleNamespace:
        self.sizes.append(len(pixels_bchw))
        batch, _, height, width = pixels_bchw.shape
        return SimpleNamespace(latent=torch.empty(batch, 16, height // 8, width // 8, device=self.device))


def test_however_large_a_share_few_images_are_encoded_at_once_and_stay_on_their_device(both, monkeypatch) -> None:
    _, recipe, _, now = both
    monkeypatch.setattr(on_the_fly_rows, "BATCH", 2)
    rows, elsewhere = load_rows(now, "structure", on_the_fly(recipe)), Elsewhere()
    monkeypatch.setattr(rows, "_autoencoder", elsewhere)
    bucket = torch.nonzero(rows.preset_n == rows.preset_n[0]).flatten().tolist()
    share = bucket[:1] * 5
    for found in (rows.latents(share), rows.lower(share)):
        assert found.device.type == "meta" and len(found) == 5
    assert elsewhere.sizes == [2, 2, 1] * 2
