"""Texts of a vocabulary's own languages pass; those of others, of other scripts and of no language are named."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizerFast, ByT5Tokenizer, PreTrainedTokenizerFast

from pangu.data.example.openmoji import catalogue
from pangu.data.wording import worded
from pangu.models.known_words import MOST_CHARACTERS, unknown_words
from pangu.sentences import TEMPLATES
from tests import subtests


@pytest.fixture(autouse=True)
def _small_vocabularies_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at hand are smaller than any that words are judged by; the rule is the same."""
    monkeypatch.setattr("pangu.models.known_words.SMALL_VOCABULARY", 512)


CAPTIONS = {"en": [one.caption_en for one in catalogue()], "zh": [one.caption_zh for one in catalogue()]}
EMOJI = [one.text for one in catalogue()]
FOREIGN = (
    "ein roter Fuchs", "ein Hund auf der Wiese", "die Katze schläft", "Regenschirm", "ein kleines Haus am Rhein",
    "drei Katzen spielen", "un renard roux", "dessine un mouton", "image d'un chien", "un vélo", "рыжая лиса", "собака спит",
    "きつね", "りんごをください", "여우 한 마리", "개가 자고 있다", "ثعلب أحمر", "تفاحة خضراء", "लाल लोमड़ी", "हरा सेब", "สุนัข",
    "asdkjh qwlekj", "xqzv", "fghjkl", "龘靐", "魑魅魍魉",
)  # fmt: skip
UNDERSTOOD = {
    "en": ("a fox", "a house", "draw a dog, please", "a red apple!", "A RED APPLE", "2 red apples (on white)"),
    "zh": ("画一只狐狸", "请画一个红苹果。", "狗和猫", "红 苹 果", "“城堡”"),
}


def texts(language: str) -> list[str]:
    """Every caption, and every template around one."""
    captions, templates = CAPTIONS[language], TEMPLATES[language]
    return captions + [worded(template, captions[index * 7]) for index, template in enumerate(templates)]


def byte_level(corpus: Sequence[str], size: int) -> Any:
    """As the embedded tower's: bytes, each Han character by itself, blanks belonging to the word behind them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def clip_like(corpus: Sequence[str], size: int) -> Any:
    """As CLIP's: bytes, and words that end in </w>."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def chinese_bert(corpus: Sequence[str], size: int) -> Any:
    """As Chinese CLIP's: a list of characters, and one token for whatever is not among them."""
    characters = sorted({character for text in corpus for character in text if character.isalpha()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    return BertTokenizerFast(vocab={name: index for index, name in enumerate(names)})


BOTH = texts("en") + texts("zh") + EMOJI
KINDS: dict[str, tuple[Callable[[Sequence[str], int], Any], list[str], tuple[str, ...]]] = {
    "byte-level": (byte_level, BOTH * 2, ("en", "zh")),
    "CLIP": (clip_like, texts("en") * 2, ("en",)),
    "Chinese CLIP": (chinese_bert, texts("zh"), ("zh",)),
}


@functools.cache
def tokenizer_of(kind: str) -> Any:
    build, corpus, _ = KINDS[kind]
    return build(corpus, 12_000)


@subtests.parametrize("kind", KINDS)
def test_no_text_of_its_own_languages_is_unknown(kind: str) -> None:
    known = [text for language in KINDS[kind][2] for text in (*texts(language), *UNDERSTOOD[language])]
    found = {text: words for text in known if (words := unknown_words([tokenizer_of(kind)], text))}
    assert len(found) <= 0.002 * len(known), found
    assert not set(found) & {text for texts in UNDERSTOOD.values() for text in texts}


def test_emoji_that_were_met_are_known_and_others_are_not() -> None:
    met, never_met = tokenizer_of("byte-level"), byte_level(texts("en"), 6000)
    assert sum(bool(unknown_words([met], text)) for text in EMOJI) <= 0.002 * len(EMOJI)
    assert all(unknown_words([never_met], text) for text in ("🦊", "❤️", "☂", "👩‍🚒", "🦊🍎"))
    assert unknown_words([never_met], "🦊 🦊") == ("🦊",)


@subtests.parametrize("kind", KINDS)
def test_other_languages_scripts_and_gibberish_are_named(kind: str) -> None:
    found = [text for text in FOREIGN if unknown_words([tokenizer_of(kind)], text)]
    # Words of other languages in the same letters may look like those of its own.
    assert len(found) >= 0.8 * len(FOREIGN), set(FOREIGN) - set(found)
    assert unknown_words([tokenizer_of(kind)], "рыжая ЛИСА, рыжая!") == ("рыжая", "ЛИСА")


def test_what_one_tower_knows_is_known() -> None:
    towers = [tokenizer_of("Chinese CLIP"), tokenizer_of("CLIP")]
    for text in (*UNDERSTOOD["en"], *UNDERSTOOD["zh"], "a 红苹果"):
        assert not unknown_words(towers, text), text
    assert unknown_words(towers[1:], "红苹果") == ("红", "苹", "果")
    assert unknown_words(towers[:1], "umbrella")
    assert unknown_words(towers, "рыжая лиса")


def test_a_tower_that_reads_bytes_is_never_said_to_lack_a_word() -> None:
    assert not unknown_words([ByT5Tokenizer()], "рыжая лиса")
    assert not unknown_words([tokenizer_of("byte-level"), ByT5Tokenizer()], "рыжая лиса")


def test_a_text_is_warned_of_only_where_the_greater_part_is_unknown() -> None:
    tokenizer = tokenizer_of("byte-level")
    assert not unknown_words([tokenizer], "a picture of a fox and a кот")
    assert unknown_words([tokenizer], "a fox и большая красивая собака") == ("и", "большая", "красивая", "собака")


@subtests.parametrize("text", ["", " ", "...", "42", "?!—。", "\u200f\u200e", "\ufe0f", "\u0301", "\u200d"])
def test_marks_digits_and_blanks_are_no_words(text: str) -> None:
    assert unknown_words([tokenizer_of("byte-level")], text) == ()


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_of_any_text_it_names_words_that_stand_in_it_each_once(text: str) -> None:
    words = unknown_words([tokenizer_of("byte-level")], text)
    assert len(set(words)) == len(words) and all(word and word in text for word in words)


def test_a_text_without_end_takes_no_longer() -> None:
    tokenizer = tokenizer_of("byte-level")
    assert unknown_words([tokenizer], "лиса " * 10**5) == unknown_words(
        [tokenizer], ("лиса " * 10**5)[:MOST_CHARACTERS]
    )
