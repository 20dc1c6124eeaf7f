"""A hostile list costs its own rows and nothing else: one real ingest and prepare of every behaviour at once."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pangu.data.card import Card, load_card
from pangu.data.ingest.raw import NO_SHARD
from pangu.data.ingest.reuse import UNASKED
from pangu.data.ingest.stage import IngestOutcome, ingest
from pangu.data.prepare.stage import PrepareOutcome, prepare
from pangu.data.table.delta import read_rows
from pangu.storage import Home
from tests.data.ingest.hostile import BEHAVIOURS, CAPTIONS, LIMIT, URLS, hostile_origin


@dataclass(frozen=True)
class Survived:
    card: Card
    home: Home
    ingested: IngestOutcome
    prepared: PrepareOutcome

    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.home.raw(self.card.name, self.ingested.ingest_id) / "rows.parquet").to_pylist()

    def reasons(self) -> dict[str, str]:
        """How each listed row ended at ingest, by its name."""
        return {row["style"]: row["reason"] for row in self.rows()}


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survived]:
    home = Home(tmp_path_factory.mktemp("hostile"))
    card = load_card("openmoji")
    limits = {
        "max_bytes": LIMIT,
        "max_pixels": 4_000_000,
        "max_seconds": 15.0,
        "memory_mb": 1024,
        "rows_per_shard": 30,
        "threads": 16,
    }
    card = card.model_copy(
        update={
            "limits": card.limits.model_copy(update={**limits, "stall_seconds": 120.0}),
            "columns": card.columns.model_copy(update={"style": "name"}),
            "upscale": card.upscale.model_copy(update={"min_timestep": 300, "upscaler": "lanczos"}),
            "source": str(home.root / "urls.jsonl"),
        }
    )
    with hostile_origin() as port:
        rows = [{"url": f"http://127.0.0.1:{port}/{name}", "name": name} for name in BEHAVIOURS]
        rows += [{"url": url, "name": name} for name, (url, _) in URLS.items()]
        rows += [
            {"url": f"http://127.0.0.1:{port}/caption-{name}", "name": name, "caption_en": text}
            for name, (text, _) in CAPTIONS.items()
        ]
        defaults = {"caption_en": "a caption", "caption_zh": "", "license": ""}
        Path(card.source).write_text("\n".join(json.dumps({**defaults, **row}) for row in rows))
        outcome = ingest(card, home)
        yield Survived(card, home, outcome, prepare(card, outcome.ingest_id, home))


def test_every_behaviour_ends_under_its_own_reason(survived: Survived) -> None:
    assert len(BEHAVIOURS) + len(URLS) + len(CAPTIONS) >= 40
    expected = {name: reason for name, (_, reason) in {**BEHAVIOURS, **URLS}.items()}
    expected |= dict.fromkeys(CAPTIONS, "")
    expected["truncated-jpeg"] = ""  # a whole download of half a file: prepare finds out
    assert survived.reasons() == expected
    outcome = survived.ingested
    assert outcome.listed == len(expected) == outcome.ok + sum(outcome.failed.values())


def test_what_the_check_of_a_card_would_try_is_never_a_bad_url_later(survived: Survived) -> None:
    assert {row["shard"] for row in survived.rows() if row["reason"] in UNASKED} == {NO_SHARD}


def test_what_was_harmless_is_all_there_and_nothing_else(survived: Survived) -> None:
    rows = read_rows(survived.home, "openmoji", survived.prepared.version).to_pylist()
    kept = {name for name, (_, reason) in BEHAVIOURS.items() if not reason} | (set(CAPTIONS) - {"huge"})
    kept -= {"plain-moved", "图片/全 景?名=狐"}  # the bytes that redirects, listed before them, already brought
    assert {row["style"] for row in rows} == kept
    assert survived.prepared.dropped == {"duplicate": 2, "missing_caption": 1, "undecodable": 1}
    assert survived.prepared.rows + 4 == survived.ingested.ok


def test_rows_hold_plain_pixels_and_clean_captions(survived: Survived) -> None:
    for row in read_rows(survived.home, "openmoji", survived.prepared.version).to_pylist():
        with Image.open(io.BytesIO(row["image"])) as image:
            assert image.mode in ("RGB", "L") and (image.width, image.height) == (row["width"], row["height"])
        if row["style"] in BEHAVIOURS:
            assert row["source_url"].endswith(f"/{row['style']}")  # as listed, whatever was asked for
        if row["style"] in CAPTIONS:
            assert row["caption_en"] == CAPTIONS[row["style"]][1]


def test_the_report_shows_hostile_captions_as_text(survived: Survived) -> None:
    page = Path(survived.prepared.report).read_text()
    assert "<script>" not in page and "http://" not in page.replace("http://www.w3.org", "")
