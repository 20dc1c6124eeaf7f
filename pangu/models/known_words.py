"""Which words of a text a tokenizer knows, told by the pieces that it breaks them into: few and long ones, or crumbs.

A byte-level vocabulary has tokens for any text at all, so a tower reads, and a generator draws, also what training never showed
them. What a training holds often becomes whole pieces; a foreign script falls into bytes, and gibberish into letters.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

SIZE_OF_A_PIECE = 2
"""From this mean on a word is known that is more than one piece: in letters, or in bytes for a single character."""
SHORT = 3
"""Letters of a word that two pieces do not make a crumb of: a vocabulary may know "fox" as "fo" and "x"."""
ALONE = ((0x2E80, 0x33FF), (0x3400, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Code points of Han, Kana and Hangul, where each character is looked at by itself."""
BLANKS = "Ġ▁ "
"""How vocabularies write the blank before a word; where it is a piece of its own, it is none of the word."""
SMALL_VOCABULARY = 4096
"""A vocabulary of so few tokens holds bytes, letters and few whole words; whatever its tower knows, they do not tell. By one of
3,072 that was learnt from 3,944 captions, 12 % of them in English and 23 % in Chinese seemed unknown."""
MOST_CHARACTERS = 512
"""Of a text that are looked at; towers read no more."""
LETTERS_OF_ONE = 3
"""What such a character and an emoji weigh beside the letters of a word: as much as a short one."""


def unknown_words(tokenizers: Sequence[Any], text: str) -> tuple[str, ...]:
    """The words of `text` that none of the tokenizers knows, each once, where they are more than half of it; else none.

    A text is as long as its letters; marks, digits and blanks do not count.
    """
    text = text[:MOST_CHARACTERS]
    words = list(_words(text))
    if not words or any(len(tokenizer) <= SMALL_VOCABULARY for tokenizer in tokenizers):
        return ()
    known: set[int] = set()
    for tokenizer in tokenizers:
        counts = _pieces(tokenizer, text, words)
        known |= {place for place, count in enumerate(counts) if _is_known(text[slice(*words[place])], count)}
    weights = [LETTERS_OF_ONE if _stands_alone(text[start]) else stop - start for start, stop in words]
    if 2 * sum(weights[place] for place in known) >= sum(weights):
        return ()
    return tuple(dict.fromkeys(text[slice(*word)] for place, word in enumerate(words) if place not in known))


def _is_known(word: str, pieces: int | None) -> bool:
    """pieces: how many make up the word; None if the tokenizer has no token for a part of it."""
    size = len(word) if len(word) > 1 else len(word.encode())
    return pieces == 1 or (pieces == 2 and len(word) == SHORT) or bool(pieces and size / pieces >= SIZE_OF_A_PIECE)


def _words(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of each run of letters, and of each character that stands alone."""
    start: int | None = None
    for place, sign in enumerate(text):
        alone, kind = _stands_alone(sign), unicodedata.category(sign)[0]
        inside = not alone and (kind == "L" or (kind == "M" and start is not None))
        if start is not None and not inside:
            yield start, place
            start = None
        if alone:
            yield place, place + 1
        elif inside and start is None:
            start = place
    if start is not None:
        yield start, len(text)


def _stands_alone(sign: str) -> bool:
    """Whether it is an emoji, or a letter of a script that puts no blanks between words or whole syllables into one character."""
    kind = unicodedata.category(sign)
    return kind == "So" or (kind[0] == "L" and any(low <= ord(sign) <= high for low, high in ALONE))


def _pieces(tokenizer: Any, text: str, words: Sequence[tuple[int, int]]) -> list[int | None]:
    """How many pieces make up, or touch, each word; None where one of them is the token for what has none."""
    if not tokenizer.is_fast:
        apart = [
            tokenizer(text[start:stop], add_special_tokens=False, verbose=False).input_ids for start, stop in words
        ]
        return [None if not ids or tokenizer.unk_token_id in ids else len(ids) for ids in apart]
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    touching: list[list[int]] = [[] for _ in text]
    names = tokenizer.convert_ids_to_tokens(read.input_ids)
    for number, (name, (start, stop)) in enumerate(zip(names, read.offset_mapping, strict=True)):
        if name.strip(BLANKS):
            for place in range(start, stop):
                touching[place].append(number)
    found: list[int | None] = []
    for start, stop in words:
        pieces = set().union(*touching[start:stop])
        lacking = not pieces or any(read.input_ids[number] == tokenizer.unk_token_id for number in pieces)
        found.append(None if lacking else len(pieces))
    return found
