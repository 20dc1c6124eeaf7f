"""Fetches a few rows of a table of URLs for the sheet, behind the guard of ingest, and forgets all else."""

import tempfile
from pathlib import Path

import pyarrow as pa

from pangu.data.card import Card, Columns
from pangu.data.images import BadImage, check_header, read_rgb
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.raw import RawFolder, write_table
from pangu.data.ingest.stage import ingest
from pangu.data.propose.survey import SHOWN, SHOWN_SIDE, ShownRow, said_of, squared
from pangu.storage import Home

SECONDS = 10.0
"""For one address."""


def fetch_shown(card: Card, home: Home) -> tuple[list[ShownRow], dict[str, int]]:
    """Up to `SHOWN` rows spread over a table of URLs, and why the others of them did not come."""
    listed = read_source(card, home)
    step = max(1, listed.num_rows // SHOWN)
    few = listed.take(list(range(0, listed.num_rows, step))[:SHOWN]).select(["url", "caption_en", "caption_zh"])
    with tempfile.TemporaryDirectory() as folder:
        own = Home(Path(folder), tables="")
        write_table(few, own.root / "rows.parquet")
        limits = card.limits.model_copy(
            update={"max_seconds": SECONDS, "retries": 0, "processes": 1, "stall_seconds": 60.0}
        )
        changes = {"source": str(own.root / "rows.parquet"), "limits": limits, "columns": _COLUMNS}
        outcome = ingest(card.model_copy(update=changes), own)
        return _shown(RawFolder(own.raw(card.name, outcome.ingest_id)), few), outcome.failed


_COLUMNS = Columns(url="url", caption_en="caption_en", caption_zh="caption_zh")


def _shown(raw: RawFolder, few: pa.Table) -> list[ShownRow]:
    came = dict[int, bytes]()
    for shard in raw.finished_shards():
        came |= {row: data for row, data, _ in raw.images(shard) if data}
    found = []
    for row, texts in enumerate(few.to_pylist()):
        try:
            data = came.get(row, b"")
            side, picture = min(check_header(data)), read_rgb(data, at_least=SHOWN_SIDE)
        except BadImage:
            continue
        captions = filter(None, (texts["caption_en"], texts["caption_zh"]))
        found.append(ShownRow(squared(picture), said_of(side, captions)))
    return found
