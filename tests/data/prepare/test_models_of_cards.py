"""Models that a card names, on small random networks written to disk in the published formats: translators,
captioners, CLIP, aesthetics."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizerFast,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from pangu.data.card import Card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.fill_captions import FillCaptions
from pangu.data.filters import Filters
from pangu.data.images import ImageHWC
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.captioning import Captioner
from pangu.data.prepare.clip_scores import ClipScores, LinearPredictor
from pangu.data.prepare.missing_captions import CaptionFiller
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.scores import Scorer
from pangu.data.prepare.stage import WorkerSettings, prepare
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.prepare.captioners import write_blip, write_llava, write_vit_gpt2

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`translator/`, `clip/` and `aesthetic.safetensors`."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    words = ["<pad>", "</s>", "<unk>", "一", "只", "狐", "狸", "fox", "a", "red"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(root / "translator")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": len(words)}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    translator = T5ForConditionalGeneration(T5Config(**shape, **ids, tie_word_embeddings=False))
    translator.lm_head.weight.data[:3] = 0  # so that it says something before it ends
    translator.lm_head.weight.data[3] *= 50
    translator.lm_head.weight.data[4] = -translator.lm_head.weight.data[3]
    translator.save_pretrained(root / "translator")

    letters = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for character in "abcdefghijklmnopqrstuvwxyz":
        letters[character] = len(letters)
        letters[f"{character}</w>"] = len(letters)
    text = {**TINY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(letters)}
    vision = {**TINY, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**text, "max_position_embeddings": 16}, vision_config=vision, projection_dim=12)
    CLIPModel(config).save_pretrained(root / "clip")
    CLIPTokenizerFast(vocab=letters, merges=[]).save_pretrained(root / "clip")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sizes).save_pretrained(root / "clip")
    save_file({"weight": torch.randn(1, 12), "bias": torch.tensor([5.0])}, root / "aesthetic.safetensors")
    return root


@pytest.fixture(scope="module")
def captioners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of each kind."""
    root = tmp_path_factory.mktemp("captioners")
    torch.manual_seed(0)
    writers = {"blip": write_blip, "vit_gpt2": write_vit_gpt2, "llava": write_llava}
    return {kind: write(root / kind) for kind, write in writers.items()}


def nothing(asked: Collection[int]) -> Iterator[tuple[int, ImageHWC]]:
    """What a filler without captioners sees."""
    raise AssertionError(f"a translator looked at the images of {asked}")


def test_a_missing_language_is_written_and_marked_and_a_given_one_is_left_alone(models: Path) -> None:
    filler = CaptionFiller(FillCaptions(en_to_zh=str(models / "translator"), max_tokens=6))
    rows = {
        0: {"caption_en": "a red fox", "caption_zh": ""},
        1: {"caption_en": "a fox", "caption_zh": "一只狐狸"},
        2: {"caption_en": "", "caption_zh": "狐狸"},
    }
    filled = filler.fill(rows, nothing)
    assert filled[0]["caption_zh"] and filled[0]["caption_zh_by"] == str(models / "translator")
    assert filled[1] == rows[1] and filled[2] == rows[2] and rows[0]["caption_zh"] == ""
    assert filler.fill(rows, nothing) == filled


PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 30 + i, 3), np.uint8)) for i in range(6)]
PROMPTED = [("blip", ""), ("blip", "a red"), ("vit_gpt2", ""), ("vit_gpt2", "a red"), ("llava", "a fox sees ?")]


@subtests.parametrize(("kind", "prompt"), PROMPTED)
def test_what_a_captioner_says_depends_on_the_image_alone(captioners: dict[str, str], kind: str, prompt: str) -> None:
    captioner = Captioner(captioners[kind], prompt, 6)
    said = captioner.describe(PICTURES)
    assert len(set(said)) > 1 and all(said)
    assert said == [captioner.describe([picture])[0] for picture in PICTURES]
    goes_on = prompt and kind != "llava"  # an answer does not repeat its question
    assert all(text.startswith(prompt) == bool(goes_on) for text in said) or not prompt


def test_an_image_is_described_where_nothing_can_be_translated(models: Path, captioners: dict[str, str]) -> None:
    described = {"image_to_en": captioners["blip"], "prompt_en": "a red"}  # words that the translator knows
    settings = FillCaptions(en_to_zh=str(models / "translator"), **described, max_tokens=6)
    rows = {
        0: {"caption_en": "", "caption_zh": ""},
        1: {"caption_en": "a fox", "caption_zh": ""},
        2: {"caption_en": "", "caption_zh": "狐狸"},
        3: {"caption_en": "", "caption_zh": ""},
    }
    looked: list[int] = []

    def look(asked: Collection[int]) -> Iterator[tuple[int, ImageHWC]]:
        looked.extend(sorted(asked))
        return ((number, np.asarray(PICTURES[number])) for number in sorted(asked) if number != 3)  # 3 is broken

    filled = CaptionFiller(settings).fill(rows, look)
    assert looked == [0, 2, 3]
    assert {number for number, row in filled.items() if row.get("caption_en_by") == captioners["blip"]} == {0, 2}
    assert filled[1]["caption_en"] == "a fox" and filled[2]["caption_zh"] == "狐狸"
    assert filled[0]["caption_zh"] and filled[0]["caption_zh_by"] == str(models / "translator")
    assert filled[3] == rows[3]


@pytest.mark.long
def test_images_without_any_caption_become_rows(captioners: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index, one in enumerate(selection(3)):
        (source / f"{index}.png").write_bytes(render_png(one, 64))
        (source / f"{index}.txt").write_text("a fox" if index == 0 else "")
    card = Card.model_validate(
        {
            "name": "described", "source": str(source), "columns": {"caption_en": "txt"}, "licence": {"name": "CC0"},
            "texture_min_side": 32, "upscale": {"target_side": 48, "min_timestep": 300},
        }
    )  # fmt: skip
    home = Home(tmp_path / "home")
    ingested = ingest(card, home).ingest_id
    assert prepare(card, ingested, home).dropped == {"missing_caption": 2}
    nowhere = card.model_copy(update={"fill_captions": FillCaptions(image_to_en=str(tmp_path / "nowhere"))})
    for workers in (1, 2):
        with pytest.raises(UserError, match="nowhere"):
            prepare(nowhere, ingested, home, execution=WorkerSettings(workers=workers))
    fill = FillCaptions(image_to_en=captioners["blip"], max_tokens=6)
    outcome = prepare(card.model_copy(update={"fill_captions": fill}), ingested, home)
    rows = read_rows(home, "described", outcome.version).to_pylist()
    assert sorted(row["caption_en_by"] or "listed" for row in rows) == sorted(["listed", *[captioners["blip"]] * 2])


def test_scores_of_models_are_columns_and_their_thresholds_can_change(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index, one in enumerate(selection(6)):
        (source / f"{index}.png").write_bytes(render_png(one, 64))
        (source / f"{index}.json").write_text(json.dumps({"en": f"a red fox {one.caption_en}"}))
    card = Card.model_validate(
        {
            "name": "scored", "source": str(source), "columns": {"caption_en": "en"}, "licence": {"name": "CC0"},
            "texture_min_side": 32, "upscale": {"target_side": 48, "min_timestep": 300},
            "fill_captions": {"en_to_zh": str(models / "translator"), "max_tokens": 6},
            "filters": {"clip_model": str(models / "clip"), "aesthetic_model": str(models / "aesthetic.safetensors")},
        }
    )  # fmt: skip
    home = Home(tmp_path / "home")
    prepare(card, ingest(card, home).ingest_id, home)
    rows = read_rows(home, "scored", 0).to_pylist()
    assert all(0 <= row["clip_score"] <= 100 and row["aesthetic"] is not None for row in rows)
    assert {row["caption_zh_by"] for row in rows if row["caption_zh"]} == {str(models / "translator")}
    middle = float(np.median([row["aesthetic"] for row in rows]))
    stricter = card.model_copy(update={"filters": card.filters.model_copy(update={"min_aesthetic": middle})})
    assert refilter(stricter, home, 0).rows == sum(row["aesthetic"] >= middle for row in rows)


def test_a_clip_score_is_a_hundred_times_the_cosine(models: Path) -> None:
    scores = ClipScores(str(models / "clip"))
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    embedding = scores.look(image)
    assert float(embedding.norm()) == pytest.approx(1, abs=1e-5)
    assert scores.caption("a fox", "狐狸") == "a fox"
    assert 0 <= scores.agreement(embedding, "a fox") <= 100


def test_models_that_cannot_be_used_are_one_sentence_each(models: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, tmp_path / "short.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    embedding = torch.ones(12)
    with pytest.raises(UserError, match=r"reads 7 numbers, but filters.clip_model gives 12"):
        LinearPredictor(tmp_path / "short.safetensors")(embedding)
    with pytest.raises(UserError, match="must be a safetensors file"):
        LinearPredictor(tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match=r"no model at .*nowhere"):
        ClipScores(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"filters\.clip_model .* needs one of clip, chinese_clip"):
        ClipScores(str(models / "translator"))
    with pytest.raises(UserError, match=r"no model at .*nowhere"):
        CaptionFiller(FillCaptions(zh_to_en=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"captioning model .*clip' of fill_captions cannot be loaded"):
        CaptionFiller(FillCaptions(image_to_en=str(models / "clip")))
    with pytest.raises(UserError, match=r"name it in filters\.clip_model"):
        Scorer(Filters(aesthetic_model=str(models / "aesthetic.safetensors")))
