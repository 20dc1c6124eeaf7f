"""The rows of a table of URLs that are shown are fetched behind the guard of ingest, and leave nothing behind."""

from pathlib import Path

from pangu.data.example.origin import Origin
from pangu.data.propose.fetch_shown import fetch_shown
from pangu.data.propose.survey import SHOWN, SHOWN_SIDE
from pangu.storage import Home
from tests.data.conftest import small_card


def test_a_few_rows_are_shown_and_the_others_counted_by_reason(tmp_path: Path) -> None:
    home = Home(tmp_path)
    card, origin = small_card(home), Origin(30)
    origin.start()
    try:
        origin.write_table(Path(card.source))
        shown, lost = fetch_shown(card, home)
        refused, reasons = fetch_shown(
            card.model_copy(update={"limits": card.limits.model_copy(update={"allow_private_hosts": ()})}), home
        )
    finally:
        origin.close()
    assert len(shown) + sum(lost.values()) == SHOWN and len(shown) >= SHOWN - 4
    assert all(row.picture.size == (SHOWN_SIDE, SHOWN_SIDE) and " px: " in row.caption for row in shown)
    assert not refused and reasons["refused_address"] >= SHOWN - 4
    assert not (home.dataset(card.name) / "raw").exists()
