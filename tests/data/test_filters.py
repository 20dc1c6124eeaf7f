"""Thresholds drop what misses them and nothing else; near duplicates are found whatever their order."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pangu.data.filters import REASONS, Filters, check_measured
from pangu.data.prepare.near_duplicates import OTHERS as OTHER_PICTURES
from pangu.data.prepare.near_duplicates import PICTURES, colours_of, near_duplicates
from pangu.data.prepare.scores import Scorer, english, facts_of, han_share, text_area
from pangu.data.prepare.select import DECIDING
from pangu.data.prepare.thresholds import reasons_of
from pangu.data.table.schema import SCHEMA
from pangu.data.table.spilling import engine, load
from pangu.errors import UserError
from tests import subtests

ROW = {
    "original_width": 600, "original_height": 400, "caption_en": "a red fox in the snow", "caption_zh": "雪中的狐狸",
    "aspect": 1.5, "english": 0.9, "chinese": 1.0, "text_area": 0.1, "nsfw": 0.2, "clip_score": 25.0, "aesthetic": 5.0,
    "min_timestep": 100,
}  # fmt: skip
MISSED = {
    "small_side": {"min_side": 401},
    "aspect": {"max_aspect": 1.4},
    "caption_short": {"min_caption_length": 22},
    "caption_long": {"max_caption_length": 20},
    "caption_language": {"min_english": 0.95},
    "text_overlay": {"max_text_area": 0.05},
    "nsfw": {"max_nsfw": 0.1},
    "clip_score": {"min_clip_score": 26.0},
    "aesthetic": {"min_aesthetic": 5.5},
    "too_blurry": {"max_min_timestep": 99},
}


def reason_of(row: dict[str, Any], filters: Filters) -> str:
    listed = pa.Table.from_pylist(
        [{name: row.get(name) for name in DECIDING}] * 2, pa.schema(map(SCHEMA.field, DECIDING))
    )
    one, other = reasons_of(listed, filters).to_pylist()
    assert one == other
    return one


@subtests.parametrize("reason", REASONS)
def test_each_threshold_drops_for_its_own_reason(reason: str) -> None:
    filters = Filters.model_validate(MISSED[reason])
    assert reason_of(ROW, filters) == reason
    assert reason_of(ROW, Filters()) == ""


@subtests.parametrize("column", ["english", "text_area", "nsfw", "clip_score", "aesthetic"])
def test_what_was_not_measured_passes_a_row_but_not_a_whole_table(column: str) -> None:
    strict = Filters.model_validate({name: value for missed in MISSED.values() for name, value in missed.items()})
    loose = Filters(min_english=0.95, max_text_area=0.05, max_nsfw=0.1, min_clip_score=26.0, min_aesthetic=5.5)
    assert reason_of({**ROW, column: None}, loose) != reason_of(ROW, loose) or column != "english"
    if column != "english":
        with pytest.raises(UserError, match=f"'{column}'"):
            check_measured(strict, {column}, "t")


def picture(seed: int, side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = (rng.random(3) * side).tolist()
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def hashed(images: list[np.ndarray]) -> tuple[list[str], list[bytes]]:
    facts = [facts_of(image, (), ()) for image in images]
    return [one["phash"] for one in facts], [one["colours"] for one in facts]


def near(pictures: list[tuple[int, bytes]], bits: int, others: list[tuple[int, bytes]], **most: int) -> dict[int, str]:
    """What becomes of pictures (hash and colours, the most wanted first), by their number."""
    ranked = [(rank, rank, *picture) for rank, picture in enumerate(pictures)]
    with tempfile.TemporaryDirectory() as folder, engine(Path(folder)) as connection:
        for name, schema, rows in (("pictures", PICTURES, ranked), ("others", OTHER_PICTURES, others)):
            listed = [dict(zip(schema.names, row, strict=True)) for row in rows]
            load(connection, name, schema, [pa.Table.from_pylist(listed, schema)])
        found = [one for table in near_duplicates(connection, bits, 12, **most) for one in table.to_pylist()]
    assert [one["place"] for one in found] == sorted(one["place"] for one in found)
    return {one["place"]: one["reason"] for one in found}


def test_another_size_is_the_same_picture_and_another_colour_is_not() -> None:
    one = picture(1)
    smaller = np.asarray(Image.fromarray(one).resize((48, 48)))
    recoloured = np.ascontiguousarray(one[:, :, ::-1])
    phashes, colours = hashed([one, smaller, recoloured, picture(2)])
    pictures = list(zip([int(phash, 16) for phash in phashes], colours, strict=True))
    assert near(pictures, 4, []) == {1: "near_duplicate"}
    assert near(pictures, 4, pictures[3:]) == {1: "near_duplicate", 3: "in_other_dataset"}


@settings(max_examples=12, deadline=None)
@given(
    st.permutations(range(36)), st.sampled_from([0, 1, 4, 8, 16]), st.sampled_from([0, 5, 10**9]),
    st.sampled_from([3, 17, 10**6]),
)  # fmt: skip
def test_banded_search_finds_exactly_what_comparing_all_pairs_finds(
    order: list[int], bits: int, most: int, part: int
) -> None:
    """Also where so many pictures share bands that some are decided about first, and where one part follows the other."""
    rng = np.random.default_rng(7)
    base = [int(rng.integers(0, 2**63)) for _ in range(6)]
    flips = [(value, count) for value in base for count in (0, 0, 1, 2, 5, 9)]
    hashes = [value ^ sum(1 << int(bit) for bit in rng.choice(64, count, replace=False)) for value, count in flips]
    colours = [bytes([value // 6 * 40 + value % 3 * 7] * 48) for value in range(36)]
    pictures = [(hashes[at], colours[at]) for at in order]
    others = [(hashes[0] ^ 1, colours[0])]

    def alike(one: tuple[int, bytes], other: tuple[int, bytes]) -> bool:
        return (one[0] ^ other[0]).bit_count() <= bits and abs(one[1][0] - other[1][0]) <= 12

    expected, kept = dict[int, str](), list[tuple[int, bytes]]()
    for at, one in enumerate(pictures):
        if any(alike(one, other) for other in others):
            expected[at] = "in_other_dataset"
        elif any(alike(one, other) for other in kept):
            expected[at] = "near_duplicate"
        else:
            kept.append(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pangu.data.prepare.near_duplicates.PART_PICTURES", part)
        patch.setattr("pangu.data.prepare.near_duplicates.SORTED_AT_ONCE", 2 * part)
        assert near(pictures, bits, others, most_pairs=most) == expected


def test_a_thousand_copies_of_one_picture_are_no_million_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that differ in a colour each share every band; what cannot be told apart is refused instead of compared for ever."""
    copies = [(2**40 - 1, bytes([number % 12] * 40 + [number // 12] * 8)) for number in range(600)]
    monkeypatch.setattr("pangu.data.prepare.near_duplicates.MOST_PAIRS_AT_ALL", 100)
    found = near(copies[:144], 4, [], most_pairs=10)
    assert found.keys() == set(range(1, 144))
    rng = np.random.default_rng(1)
    apart = [(2**40 - 1, rng.bytes(48)) for _ in range(1100)]
    with pytest.raises(UserError, match=r"pictures have perceptual hashes so much alike .*max_bits lower"):
        near(apart, 4, [], most_pairs=10)


def test_a_disk_that_fills_while_all_rows_are_compared_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The disk of .* is full; make room"), engine(tmp_path) as connection:
        connection.execute("set memory_limit = '30MB'; set max_temp_directory_size = '1MB'")
        connection.execute("create table many as select md5(range::varchar) as key from range(3000000) order by key")
    assert not list(tmp_path.rglob("*.tmp"))


PLAIN = """
a red fox in the deep snow; a brown dog running on grass; the Eiffel Tower at night; a black and white photo of a cat
a man wearing a hat and sunglasses; a train at a station platform; a bowl of tomato soup with basil
grapes, melon and watermelon on a table; Golden retriever puppy in grass; portrait of a young girl with blue eyes
Astronaut floating in space; Nike Air Max 270 React sneakers black white; Antique brass door handle set
woman and man holding hands: medium skin tone; Vector illustration of seamless floral pattern; a baseball player swinging a bat
"""
OTHERS = """
ein Hund läuft auf dem grünen Rasen; une assiette de riz avec des haricots; un perro corriendo por el parque
een rode vos in de sneeuw met bomen; en rød ræv i sneen om vinteren; mulher segurando um guarda-chuva vermelho na chuva
Scarpe da ginnastica Nike nere; Adidas Superstar sneakers wit zwart; Vecteur de motif floral sans soudure
Zapatillas Nike Air Max negras; Coque iPhone transparente en silicone; rubah merah di salju musim dingin
"""


def test_plain_captions_are_english_and_those_of_other_languages_are_not() -> None:
    scores = [english(caption.strip()) for caption in PLAIN.replace("\n", ";").split(";") if caption.strip()]
    assert len(scores) == 16 and all(score is not None and score > 0.5 for score in scores), scores
    scores = [english(caption.strip()) for caption in OTHERS.replace("\n", ";").split(";") if caption.strip()]
    assert len(scores) == 12 and all(score is not None and score < 0.5 for score in scores), scores


def test_the_worst_of_several_captions_counts() -> None:
    facts = facts_of(
        picture(1), ["a red fox in the deep snow", "ein roter Fuchs im tiefen Schnee", "fox"], ["狐狸", "a狐"]
    )
    assert facts["english"] < 0.1 and facts["chinese"] == 0.5
    long = {**ROW, "more_captions_en": ["x" * 300]}
    assert reason_of(long, Filters(max_caption_length=200)) == "caption_long"
    assert reason_of({**ROW, "caption_en": None}, Filters(min_caption_length=6)) == "caption_short"


def test_captions_tell_their_language() -> None:
    assert (english("a quick brown fox jumps over the lazy dog") or 0) > 0.9
    assert (english("der schnelle braune Fuchs springt über den faulen Hund") or 0) < 0.1
    assert english("fox") is None and han_share("") is None and han_share("123 !") is None
    assert han_share("一只狐狸") == 1 and han_share("一fox狐狸") == 0.5


@pytest.mark.long
def test_text_on_an_image_is_seen() -> None:
    plain = picture(3, 160)
    image = Image.fromarray(plain).resize((320, 160))
    ImageDraw.Draw(image).text((10, 60), "SHUTTERSTOCK SALE", fill="black", font_size=28)
    scorer = Scorer(Filters(measure=("text_area", "nsfw")))
    written = scorer.scores(np.asarray(image), "", "")
    assert (written["text_area"] or 0) > 0.05 and text_area(scorer._text, plain) < 0.05
    assert written["nsfw"] == 0.0 and written["clip_score"] is None


def test_coarse_colours_are_48_bytes_of_means() -> None:
    assert colours_of(np.full((9, 7, 3), 200, np.uint8)) == bytes([200] * 48)
