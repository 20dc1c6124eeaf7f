"""What other thresholds would keep of a version that exists, before a new one is made: counts, and rows that would come or go."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.prepare.made_rows import Lost, MadeRows, lost_file, whole_work
from pangu.data.prepare.refilter import entry_to_refilter, incomplete
from pangu.data.prepare.select import Selection, select
from pangu.data.table.delta import data_files
from pangu.data.table.numbered_rows import NumberedRows
from pangu.data.table.rejected import REASON, rejected_files
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.spilling import engine, load
from pangu.data.table.store import TableStore, storage_errors
from pangu.storage import Home, read_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SHOWN = 12
"""Rows of each direction that are named."""
_NEW = pa.schema([("key", pa.string()), ("reason", pa.string())])
_KEPT = pa.schema([("key", pa.string()), ("place", pa.int64())])
_REJECTED = _KEPT.append(pa.field("reason", pa.string()))


class MovedRow(Frozen):
    """A row that would go, by its place among the rows that the version keeps, or come, by that among those it rejects."""

    place: int
    reason: str
    """Why it would be dropped, or was until now."""


class RefilterPreview(Frozen):
    """What `pangu dataset refilter` would make: its counts, and what changes against the version."""

    dataset: str
    version: int
    rows: int
    originals: int
    upscaled: int
    held_out: int
    dropped: dict[str, int]
    coming: int
    going: int
    coming_rows: tuple[MovedRow, ...]
    going_rows: tuple[MovedRow, ...]


def preview(card: Card, home: Home, version: int) -> RefilterPreview:
    """What the card would select from all rows that made a version; writes nothing but what it deletes again.

    Raises:
        UserError: as `pangu.data.prepare.refilter.refilter`, but that nothing usable would be left is no error here.
    """
    entry = entry_to_refilter(card, home, version)
    made = whole_work(home, card.name, entry.facts["work"])
    if made is None:
        raise incomplete(card, entry)
    lost = Lost.model_validate(read_json(lost_file(home, card.name, entry.facts["work"])))
    with _scratch(home.dataset(card.name) / "preview") as scratch:
        selection = select(card, made, home, scratch)
        kept = NumberedRows(data_files(home, card.name, version))
        rejected = NumberedRows(rejected_files(home, card.name, entry.key), TableStore.of(home, card.name).uri)
        with engine(scratch) as connection:
            moved = _moved(connection, _new(made, selection), kept, rejected)
    counts = selection.counts
    remaining = {fate: count for fate, count in counts.items() if not fate.reason}
    dropped = selection.dropped() + type(selection.dropped())(lost.dropped)
    return RefilterPreview(
        dataset=card.name,
        version=version,
        rows=sum(remaining.values()),
        originals=sum(count for fate, count in remaining.items() if not fate.upscaled),
        upscaled=sum(count for fate, count in remaining.items() if fate.upscaled),
        held_out=sum(count for fate, count in remaining.items() if fate.split == "held_out"),
        dropped=dict(sorted(dropped.items())),
        **moved,
    )


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder of its own: several may look at once, and a prepare clears its own folder away."""
    with storage_errors(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        with ScratchFolder("tmp", parent) as scratch:
            yield scratch


def _new(made: MadeRows, selection: Selection) -> Iterator[pa.Table]:
    """Schema `_NEW`: the verdict on every row."""
    for rows, verdicts in zip(made.batches(["key"]), selection.verdicts(), strict=True):
        yield pa.table([rows["key"], verdicts["reason"]], schema=_NEW)


def _moved(
    connection: "DuckDBPyConnection", new: Iterator[pa.Table], kept: NumberedRows, rejected: NumberedRows
) -> dict[str, Any]:
    load(connection, "new", _NEW, new)
    load(connection, "kept", _KEPT, _placed(kept, ["key"]))
    load(connection, "rejected", _REJECTED, _placed(rejected, ["key", REASON]))
    found: dict[str, Any] = {}
    for name, source in (
        ("going", "select k.place, n.reason from kept k join new n using (key) where n.reason <> ''"),
        ("coming", "select r.place, r.reason from rejected r join new n using (key) where n.reason = ''"),
    ):
        [(count,)] = connection.execute(f"select count(*) from ({source})").fetchall()
        rows = connection.execute(f"select * from ({source}) order by place limit {SHOWN}").fetchall()
        found |= {name: count, f"{name}_rows": tuple(MovedRow(place=place, reason=reason) for place, reason in rows)}
    return found


def _placed(rows: NumberedRows, columns: list[str]) -> Iterator[pa.Table]:
    for start, batch in rows.each(columns):
        places = pa.array(np.arange(start, start + batch.num_rows, dtype=np.int64))
        yield batch.append_column("place", places)
