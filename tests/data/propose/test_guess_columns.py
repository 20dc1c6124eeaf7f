"""What columns of other platforms' tables are taken for, and that a name is not all that counts."""

from hypothesis import given
from hypothesis import strategies as st

from pangu.data.card import Columns
from pangu.data.propose.guess_columns import guess_columns
from tests import subtests

URL = ["https://example.org/1.jpg", "https://example.org/2.jpg"]
EN, ZH = ["a red fox in the snow", "an owl"], ["雪里的狐狸", "猫头鹰"]


@subtests.parametrize(
    ("head", "columns"),
    [
        ({"url": URL, "caption": EN}, {"url": "url", "caption_en": "caption"}),
        ({"url": URL, "caption": ZH}, {"url": "url", "caption_zh": "caption"}),
        ({"url": URL, "caption": [EN[0], ZH[1]]}, {"url": "url", "caption": "caption"}),
        (
            {"url": URL, "caption_en": EN, "caption_zh": ZH},
            {"url": "url", "caption_en": "caption_en", "caption_zh": "caption_zh"},
        ),
        ({"url": URL, "en": EN, "zh": ZH}, {"url": "url", "caption_en": "en", "caption_zh": "zh"}),
        ({"URL": URL, "TEXT": EN, "LICENSE": ["?", "?"]}, {"url": "URL", "license": "LICENSE", "caption_en": "TEXT"}),
        ({"where": URL, "what it shows": EN}, {"url": "where", "caption_en": "what it shows"}),
        ({"page_url": URL, "image_url": URL, "alt": EN}, {"url": "image_url", "caption_en": "alt"}),
        ({"url": URL, "caption": [EN, EN]}, {"url": "url", "caption_en": "caption"}),  # COCO: lists
        ({"url": URL, "tags": ["fox, snow", "owl"]}, {"url": "url", "caption_en": "tags", "keywords_en": "tags"}),
        (
            {"url": URL, "text": EN, "tags": [["fox", "snow"], ["owl"]], "style": ["ink", "ink"]},
            {"url": "url", "style": "style", "caption_en": "text", "keywords_en": "tags"},
        ),
        (
            {"url": URL, "title": ["狐狸", "猫头鹰"], "text": EN},
            {"url": "url", "caption_en": "text", "caption_zh": "title"},
        ),
        ({"url": URL, "text": EN, "license": [None, None]}, {"url": "url", "caption_en": "text"}),
        ({"url": URL, "key": ["000", "001"], "sha": ["ab12", "cd34"]}, {"url": "url"}),
    ],
)
def test_columns_are_known_by_their_names_and_by_what_stands_in_them(head: dict, columns: dict) -> None:
    assert guess_columns(head).columns == columns


def test_the_columns_of_laion_that_nothing_reads_are_named_and_its_sizes_found() -> None:
    laion = {"URL": URL, "TEXT": EN, "WIDTH": ["512", "30"], "HEIGHT": ["512", "40"], "similarity": ["0.3", "0.2"]}
    guessed = guess_columns(laion | {"pwatermark": ["0.1", "0.9"], "punsafe": ["0", "0"]})
    assert guessed.sides == ("WIDTH", "HEIGHT") and guessed.scores == ("similarity", "pwatermark", "punsafe")


TEXTS = st.one_of(st.none(), st.text(max_size=12), st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=3))
NAMES = st.one_of(
    st.sampled_from(["url", "caption", "text_zh", "Tags", "style", "WIDTH", "file_name"]), st.text(max_size=5)
)


@given(st.dictionaries(NAMES, st.lists(TEXTS, max_size=4), max_size=6))
def test_whatever_a_table_holds_the_guess_names_its_columns_alone_and_a_card_takes_it(head: dict) -> None:
    guessed = guess_columns(head)
    assert set(guessed.columns.values()) <= set(head)
    if guessed.has_captions:
        Columns(**guessed.columns)
