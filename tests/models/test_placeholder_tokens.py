"""Words with a token of their own: heard in every sentence, the same on every machine, and all else stays to the bit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from pangu.config import Recipe, TextEncoderSource
from pangu.data.wording import worded
from pangu.errors import UserError
from pangu.models.lora import check_contract
from pangu.models.placeholder_tokens import add_placeholder_tokens, placeholders, text_towers_of
from pangu.models.text import TextTower, embed_captions, load_text_tower
from pangu.pipelines.assemble import check_encoders, untrained_pair
from pangu.recipes import tiny
from pangu.sentences import UNTRAINED_TEMPLATES

WORDS = ("Zimble", "泽宝")
OTHERS = ["", "a fox", "红苹果", "please draw two umbrellas", "zimb le"]


@pytest.fixture(scope="module")
def plain() -> TextTower:
    return load_text_tower(TextEncoderSource())


@pytest.fixture(scope="module")
def tower() -> TextTower:
    (found,) = text_towers_of(tiny().model_copy(update={"placeholder_tokens": WORDS}))
    return found


def small(**config: int) -> TextTower:
    """The tokenizer of the embedded encoder, and a network that learns a word in no time."""
    tokenizer = load_text_tower(TextEncoderSource()).tokenizer
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    shape |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return TextTower(tokenizer, CLIPTextModel(CLIPTextConfig(**shape | config)))


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a small encoder in a folder."""
    folder, tower = tmp_path_factory.mktemp("small"), small()
    tower.encoder.save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)
    return tiny().model_copy(update={"text_encoders": (TextEncoderSource(source=str(folder)),)})


@pytest.mark.long
def test_what_is_said_of_all_other_texts_stays_to_the_bit_and_so_does_the_hash(
    plain: TextTower, tower: TextTower
) -> None:
    for one, two in zip(embed_captions([plain], OTHERS, 32), embed_captions([tower], OTHERS, 32), strict=True):
        assert torch.equal(one, two)
    assert tower.hash == plain.hash and placeholders([tower]) == tuple(sorted(WORDS)) and placeholders([plain]) == ()


@settings(max_examples=20)
@given(st.sampled_from(["a {}, please", "{}", "is it (a {})?", "my {}.", "A picture of {}!"]), st.booleans())
@pytest.mark.long
def test_a_word_is_one_token_in_any_case_and_none_inside_a_longer_word(
    tower: TextTower, sentence: str, large: bool
) -> None:
    first = len(tower.tokenizer) - len(WORDS)
    assert first in tower.tokenizer(sentence.format("Zimble" if large else "zimble")).input_ids
    assert first not in tower.tokenizer(sentence.format("zimblement")).input_ids
    assert first + 1 in tower.tokenizer("我的泽宝在哪里").input_ids


@pytest.mark.long
def test_it_is_heard_in_sentences_that_say_something_else_without_it(plain: TextTower, tower: TextTower) -> None:
    """How far what is said of a sentence is from what is said of the word, over how far that is from nothing."""

    def drift(of: TextTower, word: str, sentences: list[str]) -> float:
        tokens, _ = embed_captions([of], [word, "", *sentences], 32)
        name, nothing, rest = tokens[0], tokens[1], tokens[2:]
        return float((rest - name).square().mean() / (name - nothing).square().mean())

    for language, word in zip(("en", "zh"), WORDS, strict=True):
        sentences = [worded(template, word) for template in UNTRAINED_TEMPLATES[language]]
        assert drift(tower, word, sentences) < min(0.15, 0.5 * drift(plain, word, sentences))


def test_each_machine_finds_the_same_token_and_a_saved_encoder_keeps_it(small_recipe: Recipe, tmp_path: Path) -> None:
    (source,) = small_recipe.text_encoders
    (tower,) = text_towers_of(small_recipe.model_copy(update={"placeholder_tokens": WORDS}))
    again = load_text_tower(source)
    add_placeholder_tokens([again], WORDS[:1])
    add_placeholder_tokens([again], WORDS)  # those that it has are left
    tower.encoder.save_pretrained(tmp_path)
    tower.tokenizer.save_pretrained(tmp_path)
    loaded = load_text_tower(TextEncoderSource(source=str(tmp_path)))
    texts = ["a zimble", "给我画泽宝"]
    wanted = embed_captions([tower], texts, 32)
    for other in (again, loaded):
        assert other.hash == tower.hash and placeholders([other]) == placeholders([tower])
        assert all(torch.equal(*pair) for pair in zip(wanted, embed_captions([other], texts, 32), strict=True))


def test_a_word_that_is_one_token_keeps_what_it_means(plain: TextTower) -> None:
    other = load_text_tower(TextEncoderSource())
    add_placeholder_tokens([other], ["cat"])
    assert placeholders([other]) == () and len(other.tokenizer) == len(plain.tokenizer)


def test_an_encoder_that_reads_at_its_largest_token_and_one_without_room_are_refused(plain: TextTower) -> None:
    with pytest.raises(UserError, match="reads a text at its largest token; leave placeholder_tokens out"):
        add_placeholder_tokens([small(eos_token_id=2)], WORDS)
    with pytest.raises(UserError, match="'Zimble' can get no token of its own: the tokenizer has more tokens"):
        add_placeholder_tokens([small(vocab_size=len(plain.tokenizer) - 5)], WORDS)


def test_a_pair_is_not_put_together_without_the_words_that_a_generator_was_trained_with(
    small_recipe: Recipe,
) -> None:
    recipe = small_recipe.model_copy(update={"placeholder_tokens": WORDS})
    pair = untrained_pair(recipe)
    contract = pair.contract("structure")
    assert contract.placeholder_tokens == tuple(sorted(WORDS))
    check_encoders(contract, pair.vae, text_towers_of(recipe))
    with pytest.raises(UserError, match="tokens of their own for Zimble, 泽宝; name them in placeholder_tokens"):
        check_encoders(contract, pair.vae, text_towers_of(small_recipe))
    plain = contract.model_copy(update={"placeholder_tokens": ()})
    check_contract(plain, contract, "here")
    with pytest.raises(
        UserError, match="at here was trained with tokens of their own for Zimble, 泽宝, which the text"
    ):
        check_contract(contract, plain, "here")
    check_encoders(plain, pair.vae, text_towers_of(recipe))
    assert "placeholder_tokens" not in plain.model_dump()
