"""The style of an image, from the card or its table to the dataset, and datasets from before there were styles."""

import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pangu.data.card import Card
from pangu.data.example.openmoji import selection
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.source import content_digest
from pangu.data.prepare.admission import make_admitter
from pangu.data.prepare.make_rows import make_row
from pangu.data.prepare.scores import Scorer
from pangu.data.prepare.upscale import make_upscaler
from pangu.data.table.delta import latest_version, read_rows
from pangu.data.table.schema import SCHEMA
from pangu.storage import Home
from tests import subtests
from tests.data.shaped import styled_row
from tests.small_dataset import NAME, commit_as_before, commit_rows, row

CSV = "u,en,kind\nhttp://a.org/1.png,a cat,photo\nhttp://a.org/2.png,a dog,\n"


def card_of(source: Path, style: str | None = None, column: str | None = None) -> Card:
    columns = {"url": "u", "caption_en": "en", "style": column}
    return Card(name="small", source=str(source), columns=columns, licence={"name": "CC0"}, style=style)


@subtests.parametrize(
    ("style", "column", "expected"),
    [
        (None, None, ["", ""]),
        ("cartoon", None, ["cartoon", "cartoon"]),
        (None, "kind", ["photo", ""]),
        ("cartoon", "kind", ["photo", "cartoon"]),
    ],
)
def test_the_tables_style_goes_before_the_cards(style, column, expected, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    listed = read_source(card_of(tmp_path / "t.csv", style, column), Home(tmp_path))
    assert listed["style"].to_pylist() == expected


def test_a_list_without_styles_keeps_the_digest_it_had_before_there_were_any(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    plain, styled = (
        read_source(card_of(tmp_path / "t.csv", column=column), Home(tmp_path)) for column in (None, "kind")
    )
    assert content_digest(plain) == "b24f2f5803cc90ee"
    assert content_digest(plain) != content_digest(styled)


@subtests.parametrize(("listed", "expected"), [("photo", "photo"), ("", "cartoon")])
def test_prepared_rows_carry_it(listed, expected, tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (600, 600), "red").save(sink, "PNG")
    facts = {"sha256": "0" * 64, "caption_en": "a cat", "caption_zh": "", "url": "u", "license": "CC0", "style": listed}
    assert prepared_style(card_of(tmp_path, "cartoon"), facts, sink.getvalue()) == expected
    assert prepared_style(card_of(tmp_path), facts | {"style": ""}, sink.getvalue()) is None


def prepared_style(card: Card, facts: dict[str, str], data: bytes) -> str | None:
    upscaler = make_upscaler("lanczos")
    return make_row(card, facts, data, upscaler, Scorer(card.filters), make_admitter(card, [], upscaler))["style"]


def test_a_dataset_from_before_there_were_styles_is_read_and_followed_by_one_with_them(tmp_path) -> None:
    home, one = Home(tmp_path), selection(12)[0]
    before = pa.schema([field for field in SCHEMA if field.name != "style"])
    commit_as_before(home, pa.Table.from_pylist([row(one, False)], before))
    old = latest_version(home, NAME)
    assert read_rows(home, NAME, old, columns=["style"])["style"].to_pylist() == [None]
    new = commit_rows(home, [styled_row(one, "photo")], key="styled")
    assert new == latest_version(home, NAME) == old + 1
    assert read_rows(home, NAME, new, columns=["style"])["style"].to_pylist() == ["photo"]
    assert read_rows(home, NAME, old, columns=["style"])["style"].to_pylist() == [None]
