"""Captions that are worded in the loop: the same for both kinds of rows, and embedded as a prompt of these words would be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pangu.config import Execution, Recipe, TextEncoderSource
from pangu.data.captions import EMPTY, Caption
from pangu.data.encode.encoded import EncodedManifest, Encoders, check_encoded, parts
from pangu.data.encode.stage import encode
from pangu.data.encode.views import windows
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.data.rows.mapped import MappedRows
from pangu.data.rows.on_the_fly import OnTheFlyRows
from pangu.data.rows.training_rows import Rows
from pangu.data.table.delta import read_rows
from pangu.data.wording import chosen, keyword
from pangu.errors import UserError
from pangu.models.text import embed_captions, load_text_tower
from pangu.storage import Home
from pangu.train.loop import Hooks, train_loop
from tests.data.shaped import shaped_recipe, styled_row
from tests.small_dataset import NAME, commit_rows

TEMPLATES = {"en": ("a picture of {a}", "two {plural}", "{}!"), "zh": ("画一个{}", "{}。")}
LONG = "a thing that lies on a table, " * 5
WORDS: list[dict[str, Any]] = [
    {"keywords_en": ["fruit", "🍎"], "keywords_zh": ["水果"], "more_captions_en": [LONG]},
    {"keywords_en": ["animal"]},
    {},
    {"caption_zh": None, "keywords_en": ["thing"], "more_captions_en": ["something"]},
    {"caption_en": None, "keywords_en": ["never said"], "keywords_zh": ["东西", "物"]},
    {"keywords_zh": ["人"], "more_captions_zh": ["别的", "图"]},
]


def recipe_of(kind: str, **changes: object) -> Recipe:
    recipe = shaped_recipe(presets="square", steps=4)
    optimization = {"template_share": 0.6, "keyword_share": 0.5, "long_caption_share": 0.5, "checkpoint_every": 1}
    return recipe.model_copy(
        update={
            "styles": {"photo": "A photo of"},
            "caption_templates": TEMPLATES,
            "optimization": recipe.optimization.model_copy(update=optimization),
            "execution": Execution(latents=kind, prefetch=0),
            **changes,
        }
    )


def plain(kind: str) -> Recipe:
    return recipe_of(kind, caption_templates={}, optimization=shaped_recipe().optimization)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    styles = ["photo", None] * 3
    rows = [styled_row(one, style) | words for one, style, words in zip(selection(6), styles, WORDS, strict=True)]
    commit_rows(home, rows)
    return home


@pytest.fixture(scope="module", params=["precomputed", "on_the_fly"])
def worded(request: pytest.FixtureRequest, home: Home) -> tuple[str, Path, Rows]:
    recipe = recipe_of(request.param)
    folder = home.encoded(NAME, encode(NAME, 0, recipe, home).encode_id)
    return request.param, folder, load_rows(folder, "texture", recipe)


def said(row: dict[str, Any], caption: Caption) -> str:
    """What a row is called, by the rules and not by the code."""
    if caption.variant == EMPTY:
        return ""
    texts = {name: [row[f"caption_{name}"], *(row[f"more_captions_{name}"] or [])] for name in ("en", "zh")}
    asked = ("en", "zh")[caption.variant % 2]
    language = asked if row[f"caption_{asked}"] else {"en": "zh", "zh": "en"}[asked]
    text = texts[language][caption.number % len(texts[language])]
    for chance, of_length in ((caption.short, [t for t in texts[language] if t != LONG]), (caption.long, [LONG])):
        text = text if chance is None else of_length[int(chance * len(of_length))]
    words = row[f"keywords_{language}"]
    if caption.keyword is not None and words:
        text = keyword(words, caption.keyword) or ""
    if caption.template is not None:
        text = chosen(TEMPLATES[language], text, caption.template)
    return f"A photo of {text}" if caption.variant > 1 else text


class Heard:
    """Rows that note what they were asked to show, and what they showed."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.asked, self.shown = rows, list[tuple[int, Caption]](), list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        tokens, pooled = self._rows.captions(rows, captions)
        self.asked += zip(rows, captions, strict=True)
        self.shown.append(pooled)
        return tokens, pooled


def stopped_at_two(step: int, metrics: dict[str, float]) -> None:
    if step == 2:
        raise KeyboardInterrupt


def listed(home: Home, rows: Rows) -> list[dict[str, Any]]:
    found = {row["key"]: row for row in read_rows(home, NAME, 0).to_pylist()}
    return [found[key] for key in rows.keys]


def test_rows_say_in_which_languages_they_have_keywords_and_templates(home: Home, worded) -> None:
    kind, _, rows = worded
    assert isinstance(rows, MappedRows if kind == "precomputed" else OnTheFlyRows)
    expected = []
    for row in listed(home, rows):
        spoken = [name if row[f"caption_{name}"] else other for name, other in (("en", "zh"), ("zh", "en"))]
        expected.append([bool(row[f"keywords_{language}"]) for language in spoken])
    wordings = rows.wordings(range(len(rows)))
    assert [list(own.keywords) for own in wordings] == expected
    assert {tuple(has) for has in expected} == {(False, False), (True, False), (False, True), (True, True)}
    assert {own.templates for own in wordings} == {(True, True)}
    assert [own.lengths for own in wordings] == [
        (row["more_captions_en"] == [LONG], False) for row in listed(home, rows)
    ]
    assert any(any(own.lengths) for own in wordings)
    assert [own.captions for own in wordings] == [
        max(len(row["more_captions_en"] or []), len(row["more_captions_zh"] or [])) + 1 for row in listed(home, rows)
    ]


def test_a_training_shows_what_a_prompt_of_these_words_would_be(home: Home, worded, tmp_path: Path) -> None:
    kind, _, rows = worded
    recipe, heard = recipe_of(kind), Heard(rows)
    crop = windows(recipe.texture, 8)
    whole = train_loop("texture", recipe, heard, "e", tmp_path / "whole", windows=crop)
    table = listed(home, rows)
    texts = [said(table[row], caption) for row, caption in heard.asked]
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    expected = embed_captions(towers, texts, recipe.max_tokens)[1]
    torch.testing.assert_close(torch.cat(heard.shown), expected, atol=1e-5, rtol=1e-5)
    assert sum((caption.keyword, caption.template) != (None, None) for _, caption in heard.asked) >= 2

    with pytest.raises(KeyboardInterrupt):
        train_loop("texture", recipe, rows, "e", tmp_path / "parts", hooks=Hooks(stopped_at_two), windows=crop)
    resumed = train_loop("texture", recipe, rows, "e", tmp_path / "parts", windows=crop)
    assert resumed.resumed_from in (1, 2)
    ours, theirs = resumed.denoiser.state_dict(), whole.denoiser.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_both_kinds_of_rows_show_the_same(home: Home) -> None:
    recipes = [recipe_of(kind) for kind in ("precomputed", "on_the_fly")]
    both = [load_rows(home.encoded(NAME, encode(NAME, 0, one, home).encode_id), "texture", one) for one in recipes]
    assert list(both[0].keys) == list(both[1].keys)
    assert both[0].wordings(range(len(both[0]))) == both[1].wordings(range(len(both[1])))
    asked = [
        Caption(-1),
        Caption(0, 1, 0.9),
        Caption(1, 2, None, 0.9),
        Caption(0, 0, 0.2, 0.1),
        Caption(1, 0, 0.7, 0.4),
    ]
    shown = [rows.captions(range(5), asked) for rows in both]
    assert all(map(torch.equal, *shown))


def test_texts_are_stored_in_the_place_of_embeddings_and_templates_may_change(home: Home, worded) -> None:
    kind, folder, _ = worded
    columns = {name for file in parts(folder, "texture") for name in pq.read_schema(file).names}
    assert not {name for name in columns if name.startswith(("tokens", "pooled"))}
    assert (kind == "on_the_fly") == (not columns)
    assert not columns or {"keywords_en", "keywords_zh", "more_captions_en", "style", "latents"} <= columns
    first = load_rows(folder, "texture", recipe_of(kind))
    beside = load_rows(folder, "texture", recipe_of(kind), like=first)
    assert beside.texts.towers is first.texts.towers, "a mixture loads its encoders once"
    other = recipe_of(kind, caption_templates={"en": ("{a} again",)})
    assert encode(NAME, 0, other, home).encode_id == folder.name
    assert encode(NAME, 0, plain(kind), home).encode_id != folder.name


def test_what_was_encoded_for_other_texts_or_towers_is_refused(home: Home, worded, tmp_path: Path) -> None:
    kind, folder, _ = worded
    manifest = EncodedManifest.load(folder)
    check_encoded(manifest, recipe_of(kind), "texture")
    with pytest.raises(
        UserError, match="texture with text precomputed, but the dataset was encoded with on_the_fly; run"
    ):
        check_encoded(manifest, plain(kind), "texture")
    before = EncodedManifest.load(home.encoded(NAME, encode(NAME, 0, plain(kind), home).encode_id))
    with pytest.raises(
        UserError, match="texture with text on_the_fly, but the dataset was encoded with precomputed; run"
    ):
        check_encoded(before, recipe_of(kind), "texture")
    with pytest.raises(UserError, match="needs the recipe's encoders"):
        load_rows(folder, "texture")
    with pytest.raises(UserError, match=r"encoders of recipe 'tiny' are not those of .*; run `pangu encode`"):
        load_rows(folder, "texture", recipe_of(kind, text_encoders=(TextEncoderSource(sees_padding=True),)))


def test_encode_ids_of_recipes_without_wordings_are_what_they_were() -> None:
    encoders = Encoders(
        autoencoder_hash="a", text_encoder_hashes=("t",), latent_scaling=1, latent_shift=0, spatial_factor=8, latent_channels=4,
        context_channels=8, pooled_channels=8, max_tokens=16,
    )  # fmt: skip
    assert EncodedManifest(dataset="d", version=0, encoders=encoders, jobs={}).encode_id() == "13e516bbc95fcab3"
