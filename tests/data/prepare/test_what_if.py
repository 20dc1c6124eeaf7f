"""What other thresholds would keep is what a refilter then keeps, and the nearest kept picture of a near duplicate is its own."""

from pathlib import Path

import pytest

from pangu.data.card import load_card
from pangu.data.prepare.kept_cards import card_of, licence_of_version
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.threshold_changes import parsed, with_filters
from pangu.data.prepare.what_if import preview
from pangu.data.table.delta import data_files
from pangu.data.table.numbered_rows import NumberedRows
from pangu.data.table.rejected import REASON, rejected_files
from pangu.data.table.store import TableStore
from pangu.data.table.twins import twins_of
from pangu.data.table.versions import diff, entry_of, log
from pangu.errors import UserError
from pangu.storage import Home
from tests.console.home_with_pictures import NAME, prepared


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    prepared(home, tmp_path_factory.mktemp("card"))
    return home


def rows(home: Home, version: int, kept: bool) -> NumberedRows:
    if kept:
        return NumberedRows(data_files(home, NAME, version))
    key = entry_of(home, NAME, version).key
    return NumberedRows(rejected_files(home, NAME, key), TableStore.of(home, NAME).uri)


def test_a_preview_counts_what_a_refilter_makes_and_writes_nothing(home: Home) -> None:
    card = card_of(home, NAME, entry_of(home, NAME, 0))
    changed = with_filters(card, parsed(["min_side=64", "max_aspect=null", "near_duplicates=null"]))
    files = {path for path in home.root.rglob("*") if path.is_file()}
    told = preview(changed, home, 0)
    assert {path for path in home.root.rglob("*") if path.is_file()} == files
    assert told.going and told.coming and told.going == len(told.going_rows)
    going = rows(home, 0, kept=True).take([row.place for row in told.going_rows], ["key", "original_width"])
    coming = rows(home, 0, kept=False).take([row.place for row in told.coming_rows], ["key", REASON])
    assert {row.reason for row in told.going_rows} == {"small_side"} and max(going["original_width"].to_pylist()) < 64
    assert coming[REASON].to_pylist() == [row.reason for row in told.coming_rows]
    made = refilter(changed, home, 0)
    assert (made.rows, made.originals, made.upscaled, made.held_out) == (
        told.rows, told.originals, told.upscaled, told.held_out,
    )  # fmt: skip
    assert made.dropped == told.dropped
    between = diff(home, NAME, 0, made.version)
    assert (between.added, between.removed) == (told.coming, told.going)
    # Its own card is kept with each version: the same thresholds change nothing.
    same = preview(card_of(home, NAME, entry_of(home, NAME, made.version)), home, made.version)
    assert (same.coming, same.going, same.rows) == (0, 0, made.rows)
    with pytest.raises(UserError):
        load_card(NAME)
    assert licence_of_version(home, NAME, made.version) == card.licence, "also where its card lies elsewhere"
    assert licence_of_version(home, NAME, 99) is None


def test_each_near_duplicate_has_its_own_picture_beside_it(home: Home) -> None:
    kept, dropped = rows(home, 0, kept=True), rows(home, 0, kept=False)
    places, total = dropped.places_where(REASON, "near_duplicate", 0, 10)
    assert total == len(places) == 2 and dropped.places_where(REASON, "near_duplicate", 1, 10) == (places[1:], 2)
    found = dropped.take(places, ["caption_zh", "phash", "colours"])
    twins = [twin for twin in twins_of(found, kept) if twin is not None]
    there = kept.take([twin.place for twin in twins], ["caption_zh", "image"])
    assert there["caption_zh"].to_pylist() == found["caption_zh"].to_pylist()
    assert all(data.startswith(b"\x89PNG") for data in there["image"].to_pylist())
    assert all(twin.bits <= 6 and twin.colour <= 32 for twin in twins)


@pytest.mark.parametrize(
    ("changes", "said"),
    [(["min_side"], "FILTER=VALUE"), (["max_aspect=0"], "filters.max_aspect"), (["colour=1"], "unknown key")],
)
def test_a_change_that_is_none_is_one_sentence(home: Home, changes: list[str], said: str) -> None:
    card = card_of(home, NAME, entry_of(home, NAME, 0))
    with pytest.raises(UserError, match=said):
        with_filters(card, parsed(changes))


def test_a_version_whose_card_was_not_kept_says_what_to_do(home: Home, tmp_path: Path) -> None:
    entry = log(home, NAME)[-1]
    with pytest.raises(UserError, match="pangu dataset refilter CARD"):
        card_of(Home(tmp_path), NAME, entry)
