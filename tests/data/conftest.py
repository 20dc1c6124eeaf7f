"""One real ingest of a small origin, shared by the tests of everything that follows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pangu.data.card import Card, load_card
from pangu.data.example.origin import Origin
from pangu.data.ingest.stage import IngestOutcome, ingest
from pangu.progress import Progress
from pangu.storage import Home
from tests import nasty

DRAWINGS = 24


@dataclass(frozen=True)
class Ingested:
    """A finished ingest, the card and home it belongs to, and what it reported on the way."""

    card: Card
    home: Home
    outcome: IngestOutcome
    reports: list[Progress]


def small_card(home: Home) -> Card:
    """The demo's card, for a small table and an impatient test: two shards, one second per URL, one process."""
    card = load_card("openmoji")
    limits = card.limits.model_copy(
        update={"max_seconds": 1.0, "rows_per_shard": 18, "stall_seconds": 120.0, "processes": 1}
    )
    # Estimating the lowest timestep has tests of its own; here it would cost every prepare a second.
    upscale = card.upscale.model_copy(update={"min_timestep": 300})
    return card.model_copy(update={"limits": limits, "upscale": upscale, "source": str(home.root / "urls.parquet")})


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    home = Home(tmp_path_factory.mktemp("dataset") / nasty.NAME)
    home.root.mkdir()
    card, reports = small_card(home), []
    origin = Origin(DRAWINGS)
    origin.start()
    try:
        origin.write_table(Path(card.source))
        yield Ingested(card, home, ingest(card, home, reports.append), reports)
    finally:
        origin.close()
