"""A text encoder that takes the place of another: what texts mean, what is compared, and what is refused."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pangu.cli.starter import text_encoder
from pangu.config import TextEncoderSource
from pangu.data.example.openmoji import Emoji
from pangu.errors import UserError
from pangu.models.lora import put_adapter, save_layers, set_lora_scale
from pangu.models.text import TextTower, encoded, load_text_tower
from pangu.pipelines import PanGuDrawPipeline
from pangu.sentences import UNTRAINED_TEMPLATES
from pangu.starter.autoencoder import LATENT_CHANNELS, build, train_autoencoder
from pangu.starter.half_loss import HalfLoss
from pangu.starter.pair import adopt, pack_styles, starter_pair
from pangu.starter.paraphrases import Paraphrases
from pangu.starter.style_half import style_half
from pangu.starter.successor import (
    MOST_STRETCHED,
    TEXTURE_EVERY,
    KnownAnswers,
    Shown,
    teach_names,
    train_successor,
    word_error,
)
from pangu.starter.tuned_half import embedded, tune_half

DRAWINGS = [
    Emoji("🍎", "red apple", "红苹果", "1F34E", None, ("apple", "fruit", "🍎"), ("苹果", "水果", "🍎")),
    Emoji("🍏", "green apple", "青苹果", "1F34F", None, ("apple", "fruit", "🍏"), ("苹果", "水果", "🍏")),
    Emoji("🦊", "fox", "狐狸", "1F98A", None, ("animal", "🦊"), ("动物", "🦊")),
]
CAPTIONS = ["fox", "狐狸", "green apple", "red apple", "红苹果", "青苹果"]


@pytest.fixture(scope="module")
def pair() -> PanGuDrawPipeline:
    return starter_pair()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(len(CAPTIONS), LATENT_CHANNELS, 12, 12, generator=torch.Generator().manual_seed(0))


@settings(max_examples=8)  # each reads the words of ten languages
@given(st.integers(0, 2**20))
def test_every_text_means_a_caption_of_the_list_or_nothing(seed: int) -> None:
    texts = Paraphrases(DRAWINGS, seed)
    assert texts.captions == sorted(CAPTIONS)
    for text, means in zip(*texts.batch(30), strict=True):
        assert means in {"", *CAPTIONS}
        words = {word for one in DRAWINGS for word in (*one.keywords_en, *one.keywords_zh, *CAPTIONS)}
        assert means or not any(word in text.lower() for word in words)
        assert text not in {sentence.replace("{}", means) for each in UNTRAINED_TEMPLATES.values() for sentence in each}


def test_a_keyword_means_one_caption_the_same_each_time_and_an_emoji_its_own() -> None:
    meant = Paraphrases(DRAWINGS, 0).meant_by
    assert meant["apple"] == "red apple" and meant["苹果"] in {"红苹果", "青苹果"} and meant["animal"] == "fox"
    assert not set(meant) & set(CAPTIONS)


@settings(max_examples=4)
@given(st.integers(0, 2**20))
def test_a_name_that_no_drawing_has_is_what_is_meant_whatever_stands_aside(seed: int) -> None:
    called = {word for one in DRAWINGS for word in (*one.keywords_en, *one.keywords_zh, *CAPTIONS)}
    judging = [word for each in UNTRAINED_TEMPLATES.values() for sentence in each for word in sentence.split("{}")]
    drawn = list(zip(*Paraphrases(DRAWINGS, seed, named_share=1).batch(60), strict=True))
    for text, name in drawn:
        assert name not in called and (name in text or name[:-1] in text)  # a plural may change the last letter
        assert not any(len(part) > 4 and part in text for part in judging)
    assert sum(text != name for text, name in drawn) > 30


def test_of_a_name_a_teacher_says_the_same_but_as_far_from_nothing_as_captions_are(pair: PanGuDrawPipeline) -> None:
    (tower,) = pair.text_towers
    teacher = KnownAnswers(tower, CAPTIONS, turned=False)
    nothing, names = teacher.say([""])[0], ["zorbling", "quenfa", "fox"]
    tokens, pooled = teacher.say(names)
    batch = tower.tokenizer(names, padding="max_length", max_length=32, return_tensors="pt")
    straight, _ = encoded(tower, batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(tokens[2], straight[2])
    away, was = tokens - nothing, straight - nothing
    stretch = (away.square().mean((1, 2)) / was.square().mean((1, 2))).sqrt()
    torch.testing.assert_close(away, stretch[:, None, None] * was, rtol=1e-3, atol=1e-3)
    usual = (teacher.say(CAPTIONS)[0] - nothing).square().mean()
    for place in (0, 1):
        assert 1 <= stretch[place] <= MOST_STRETCHED + 1e-3
        if 1.01 < stretch[place] < 0.99 * MOST_STRETCHED:
            torch.testing.assert_close(away[place].square().mean(), usual)
    assert not torch.equal(pooled[0], pooled[1])


def test_what_a_teacher_says_the_other_way_round_is_the_same_to_the_pair_and_another_caption_is_not(
    pair: PanGuDrawPipeline, latents: torch.Tensor
) -> None:
    (tower,) = pair.text_towers
    teacher = KnownAnswers(tower, CAPTIONS)
    tokens, pooled = teacher.say(["fox"])
    batch = tower.tokenizer(["fox"], padding="max_length", max_length=32, return_tensors="pt")
    straight, sentence = encoded(tower, batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(tokens, straight.flip(1))
    meant, nothing = (tokens, pooled), teacher.say([""])
    shown = Shown(pair, {"fox": 0}, latents, seed=0)
    for _ in range(TEXTURE_EVERY):  # both halves are asked
        assert float(shown.prediction_error(["fox"], (straight, sentence), meant, nothing)) < 1e-6
    for _ in range(TEXTURE_EVERY):
        assert float(shown.prediction_error(["fox"], teacher.say(["red apple"]), meant, nothing)) > 0.1


def test_its_own_encoder_changes_nothing_for_a_pair_and_one_that_knows_nothing_much(
    pair: PanGuDrawPipeline, latents: torch.Tensor
) -> None:
    (tower,) = pair.text_towers
    assert word_error(pair, tower, CAPTIONS, latents) < 1e-6
    torch.manual_seed(0)
    stranger = TextTower(tower.tokenizer, type(tower.encoder)(tower.encoder.config).eval())
    assert word_error(pair, stranger, CAPTIONS, latents) > 0.5


@pytest.mark.long
def test_a_student_comes_nearer_and_can_go_on(pair: PanGuDrawPipeline, latents: torch.Tensor, tmp_path: Path) -> None:
    train_successor(pair, DRAWINGS, latents[:3], 0.8, tmp_path / "one")
    train_successor(pair, DRAWINGS, latents[:3], 1e-5, tmp_path / "two", init_from=tmp_path / "one")
    train_successor(pair, DRAWINGS, latents[:3], 1e-5, tmp_path / "new")
    assert load_file(tmp_path / "two" / "model.safetensors").popitem()[1].dtype == torch.float16
    errors = {}
    for name in ("one", "two", "new"):
        tower = load_text_tower(TextEncoderSource(source=str(tmp_path / name)))
        errors[name] = word_error(pair, tower, CAPTIONS, latents)
    assert errors["one"] < 0.5 * errors["new"]
    assert errors["two"] == pytest.approx(errors["one"], rel=0.1)


@pytest.mark.long
def test_a_share_of_nothing_leaves_the_encoder_as_it_was(
    pair: PanGuDrawPipeline, latents: torch.Tensor, tmp_path: Path
) -> None:
    for share in (0.0, 0.5):
        teach_names(pair, DRAWINGS, latents[:3], 0.001, tmp_path / str(share), share=share)
    own = pair.text_towers[0].encoder.state_dict()
    kept, half = (load_file(tmp_path / name / "model.safetensors") for name in ("0.0", "0.5"))
    assert all(torch.equal(value.float(), own[name].float()) for name, value in kept.items())
    assert any(not torch.equal(value.float(), own[name].float()) for name, value in half.items())


def test_names_are_taught_to_the_encoder_of_a_pair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name the pair, e\.g\. --successor-of embedded"):
        text_encoder(tmp_path, names=True)


@pytest.mark.long
def test_names_are_learnt_and_captions_stay(pair: PanGuDrawPipeline, latents: torch.Tensor, tmp_path: Path) -> None:
    teach_names(pair, DRAWINGS, latents[:3], 0.6, tmp_path)
    (before,) = pair.text_towers
    after = load_text_tower(TextEncoderSource(source=str(tmp_path)))
    texts, names = Paraphrases(DRAWINGS, 99, named_share=1).batch(100)
    wanted = KnownAnswers(before, CAPTIONS, turned=False).say(names)[1]

    def error(tower: TextTower) -> float:
        return float((embedded(tower, texts, 32)[1].float() - wanted).square().mean())

    assert error(after) < 0.8 * error(before)
    assert word_error(pair, after, CAPTIONS, latents) < 0.3


@pytest.mark.long
def test_latents_are_kept_while_other_pictures_are_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "before")
    kept = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8)
    others = 255 - kept
    before = build().from_pretrained(tmp_path / "before").encode(kept.permute(0, 3, 1, 2).float() / 127.5 - 1).latent
    moved = {}
    for name, asked in (("free", None), ("kept", kept)):
        train_autoencoder(others, 0.02, tmp_path / name, tmp_path / "before", batch_size=4, kept_nhwc=asked)
        after = build().from_pretrained(tmp_path / name, torch_dtype=torch.float32)
        moved[name] = float(
            (after.encode(kept.permute(0, 3, 1, 2).float() / 127.5 - 1).latent - before).square().mean()
        )
    assert moved["kept"] < 0.5 * moved["free"]
    with pytest.raises(UserError, match="add --init-from"):
        train_autoencoder(others, 0.01, tmp_path / "no", kept_nhwc=kept)


def test_encoders_that_say_the_same_are_adopted_and_others_refused(pair: PanGuDrawPipeline, tmp_path: Path) -> None:
    pair.vae.save_pretrained(tmp_path / "autoencoder")
    pair.text_encoder.save_pretrained(tmp_path / "text")
    pair.tokenizer.save_pretrained(tmp_path / "text")
    images = torch.full((2, 96, 96, 3), 255, dtype=torch.uint8)
    images[:, 24:72, 24:72, 0] = 0
    found = adopt(pair, tmp_path / "autoencoder", tmp_path / "text", images, ["fox", "狐狸"], tmp_path / "out")
    assert max(found.values()) < 1e-6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["autoencoder", "starter_pair", "text_encoder"]
    again = PanGuDrawPipeline.from_pretrained(
        tmp_path / "out" / "starter_pair", vae=pair.vae, text_encoder=pair.text_encoder, tokenizer=pair.tokenizer
    )
    assert again.contract("texture") == pair.contract("texture")
    assert again.styles == pair.styles and again.sampling == pair.sampling
    build().save_pretrained(tmp_path / "strange")
    with pytest.raises(UserError, match=r"change \d+\.\d% of the latents that the pair knows, more than 1%"):
        adopt(pair, tmp_path / "strange", tmp_path / "text", images, ["fox", "狐狸"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_a_tuned_half_is_another_of_the_same_shape_and_the_pair_keeps_its_own(
    pair: PanGuDrawPipeline, latents: torch.Tensor
) -> None:
    (tower,) = pair.text_towers
    before = {name: weight.clone() for name, weight in pair.texture.state_dict().items()}
    tuned = tune_half(pair, "texture", tower, DRAWINGS, latents[:3], 0.02).state_dict()
    assert {name: weight.shape for name, weight in tuned.items()} == {name: w.shape for name, w in before.items()}
    assert any(not torch.equal(tuned[name], weight) for name, weight in before.items())
    assert all(torch.equal(weight, before[name]) for name, weight in pair.texture.state_dict().items())


@pytest.mark.long
def test_an_adapter_draws_other_drawings_and_the_pair_keeps_its_own(
    pair: PanGuDrawPipeline, latents: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: weight.clone() for name, weight in pair.texture.state_dict().items()}
    monkeypatch.setattr("pangu.starter.style_half.BATCH", 4)  # more steps in the same time
    layers = style_half(pair, "texture", DRAWINGS, latents[:3], 0.08, rank=4)
    assert all(torch.equal(weight, before[name]) for name, weight in pair.texture.state_dict().items())
    save_layers(layers, pair.contract("texture"), tmp_path / "ink" / "texture")
    layers = style_half(pair, "structure", DRAWINGS, latents[:3], 0.001, rank=4)
    save_layers(layers, pair.contract("structure"), tmp_path / "ink" / "structure")
    packed = starter_pair()
    size = pack_styles(packed, {"ink": tmp_path / "ink"}, tmp_path / "pair")
    again = PanGuDrawPipeline.from_pretrained(
        tmp_path / "pair", vae=pair.vae, text_encoder=pair.text_encoder, tokenizer=pair.tokenizer
    )
    assert again.styles == ("ink", "outline") and size < 12e6  # two styles
    tokens, pooled = embedded(pair.text_towers[0], ["fox"] * 32, 32)

    def error(scale: float) -> float:
        network = copy.deepcopy(pair.texture)
        put_adapter(network, "ink", again.texture_styles.matrices("ink"))
        set_lora_scale(network, scale)
        judge = HalfLoss(network, pair.contract("texture"), latents, torch.Generator().manual_seed(7))
        with torch.no_grad():
            return float(judge([2] * 32, tokens.float(), pooled.float()))

    assert error(1.0) < 0.9 * error(0.0)
