"""Other artists' drawings: read from packages of npm, listed and served beside OpenMoji's, and made a dataset with styles."""

import functools
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pangu.data.card import load_card
from pangu.data.example import openmoji
from pangu.data.example.artists import ARTISTS, UNSEEN, drawings, with_artists
from pangu.data.example.openmoji import Emoji, every_drawing, render_png, selection
from pangu.data.example.origin import BROKEN, Origin
from pangu.data.example.tones import tones_of, without_tones
from pangu.data.images import decode_rgb
from pangu.data.ingest.source import COLUMNS
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.tiny_artists import TAGS, square, write, write_packages

DRAWINGS = 8


@functools.cache
def some_with_tones() -> list[openmoji.Emoji]:
    return [one for one in every_drawing() if without_tones(one.text) in ("👍", "🧜")] + selection(3)


def test_every_artists_drawings_follow_openmojis_in_its_style_with_two_tones_of_each_person(tmp_path: Path) -> None:
    emoji = some_with_tones()
    found = with_artists(emoji, write_packages(tmp_path, emoji))
    assert [one.text for one in found if one.style is None] == [one.text for one in emoji]
    for style, artist in ARTISTS.items():
        own = [one for one in found if one.style == style]
        assert Counter(without_tones(one.text) for one in own if tones_of(one.text)) == {"👍": 2, "🧜": 2}
        assert {one.text for one in emoji if not tones_of(one.text)} <= {one.text for one in own}
        assert all(square(one, artist) in one.drawn for one in own)
    assert len({one.stem for one in found}) == len(found)
    assert {(one.text, one.caption_en, one.caption_zh) for one in found} == {
        (one.text, one.caption_en, one.caption_zh) for one in emoji
    }


def test_keywords_are_the_words_of_cldr_and_the_emoji_itself_and_nothing_that_one_of_them_is_called(tmp_path) -> None:
    emoji = next(one for one in every_drawing() if one.text == "☂️")
    apple = next(one for one in every_drawing() if one.caption_en == "red apple")
    square_button = next(one for one in every_drawing() if one.caption_en == "blue square")
    packages = write_packages(tmp_path, [emoji, apple])
    write(
        packages, "emojibase-data", "en/data.json", [{"emoji": "☂", "tags": ["rain", "Red Apple", "umbrella", "rain"]}]
    )
    umbrella, *_ = with_artists([emoji, apple, square_button], packages)
    assert umbrella.keywords_en == ("rain", "☂️", "☂")
    assert umbrella.keywords_zh == (*TAGS["zh"], "☂️", "☂")


def test_a_drawing_is_found_by_its_alias_and_none_that_is_turned(tmp_path: Path) -> None:
    artist, names = ARTISTS["twemoji"], {"1f98a": "fox", "1f43a": "wolf", "1f436": "turned"}
    aliases = {"wolf": {"parent": "fox"}, "turned": {"parent": "fox", "hFlip": True}}
    icons = {"icons": {"fox": {"body": "<path/>", "width": 50}}, "aliases": aliases, "height": 100}
    write(tmp_path, artist.package, "icons.json", icons)
    write(tmp_path, artist.package, "chars.json", names)
    found = drawings(tmp_path, artist)
    assert found.keys() == {"🦊", "🐺"}
    assert 'viewBox="-3 -6 56 112"' in found["🦊"]


@subtests.parametrize("box", ["0 0 36 36", "0 0 36 18", "0 0 10 36"])
def test_a_drawing_of_any_shape_stands_in_the_middle_of_a_white_square(box: str) -> None:
    body = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><path fill="#f00" d="M0 0h36v36H0z"/></svg>'
    pixels = decode_rgb(render_png(Emoji("🦊", "fox", "狐狸", "1F98A", drawn=body), 48)).image_hwc
    assert pixels.shape == (48, 48, 3)
    assert (pixels[24, 24] == (255, 0, 0)).all()
    assert (pixels == pixels[::-1]).all() and (pixels == pixels[:, ::-1]).all()


@subtests.parametrize("content", [None, "{"])
def test_a_package_that_is_missing_or_torn_is_one_sentence_with_the_command(
    content: str | None, tmp_path: Path
) -> None:
    packages = write_packages(tmp_path, selection(2))
    path = packages / ARTISTS["noto"].package / "icons.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError) as error:
        Origin(2, packages=packages)
    assert str(error.value).count("\n") == 0
    assert f"npm install --prefix {tmp_path} @iconify-json/twemoji @iconify-json/noto" in str(error.value)
    assert "emojibase-data" in str(error.value) and UNSEEN.package not in str(error.value)


def test_without_artists_the_origins_table_is_what_it_was(tmp_path: Path) -> None:
    origin = Origin(3)
    origin.start()
    origin.write_table(tmp_path / "urls.parquet")
    origin.close()
    table = pq.read_table(tmp_path / "urls.parquet")
    assert tuple(table.column_names) == COLUMNS and table["style"].null_count == table.num_rows


def test_the_card_names_every_artist_under_its_licence() -> None:
    card = load_card("emoji_artists")
    for sentence in (openmoji.attribution(), *(artist.attribution for artist in ARTISTS.values())):
        assert sentence in card.licence.attribution


@pytest.mark.long
def test_styled_drawings_become_rows_with_their_style_their_licence_and_their_keywords(tmp_path: Path) -> None:
    home, emoji = Home(tmp_path / "home"), selection(DRAWINGS)
    card = load_card("emoji_artists")
    card = card.model_copy(
        update={
            "source": str(tmp_path / "urls.parquet"),
            "limits": card.limits.model_copy(update={"max_seconds": 1.0}),
            "upscale": card.upscale.model_copy(update={"min_timestep": 300}),
        }
    )
    origin = Origin(DRAWINGS, small_share=0.0, packages=write_packages(tmp_path, emoji))
    origin.start()
    try:
        origin.write_table(Path(card.source))
        fetched = ingest(card, home)
    finally:
        origin.close()
    assert fetched.listed == DRAWINGS * (1 + len(ARTISTS)) + len(BROKEN)
    outcome = prepare(card, fetched.ingest_id, home)
    columns = ["image", "caption_en", "style", "license", "keywords_en", "keywords_zh", "width"]
    rows = read_rows(home, card.name, outcome.version, columns=columns).to_pylist()
    named = {one.caption_en: one for one in emoji}
    rows = [row for row in rows if row["caption_en"] in named]
    assert Counter(row["style"] for row in rows) == dict.fromkeys((None, *ARTISTS), DRAWINGS)
    for row in rows:
        artist, one = ARTISTS.get(row["style"]), named[row["caption_en"]]
        assert row["license"] == (artist.licence if artist else openmoji.licence())
        assert {*TAGS["en"], one.text} <= set(row["keywords_en"]) and one.caption_en not in row["keywords_en"]
        assert {*TAGS["zh"], one.text} <= set(row["keywords_zh"])
        if artist:
            colour = square(one, artist)[len('<path fill="#') :][:6]
            assert decode_rgb(row["image"]).image_hwc[64, 64].tolist() == list(bytes.fromhex(colour))
