"""Landing: from rows and the verdicts on them to files of the table, rows put aside, a report, and one commit."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.prepare.report import write_report
from pangu.data.prepare.row_sources import Piece
from pangu.data.prepare.select import DECIDING, Verdict, known, select
from pangu.data.table.delta import DataFile, commit, commits_of, readable_version, write_part
from pangu.data.table.rejected import REASON, count_rejected, rejected_folder, write_rejected
from pangu.data.table.schema import SCHEMA
from pangu.data.table.store import TableStore
from pangu.errors import UserError
from pangu.progress import Progress, Reporter
from pangu.storage import Home, read_json, write_json


class PrepareOutcome(Frozen):
    """The version, and what became of every image that ingest called ok: ok = rows + the sum of `dropped`."""

    dataset: str
    version: int
    rows: int
    originals: int
    upscaled: int
    held_out: int
    dropped: dict[str, int]
    key: str
    report: str = ""
    already_done: bool = False


class Lost(Frozen):
    """What became of listed rows before there were rows to select from; every selection from the same work counts from it."""

    listed: int
    failed: dict[str, int]
    dropped: dict[str, int]


def lost_file(home: Home, name: str, work: str) -> Path:
    """Where `Lost` of one piece of work is kept."""
    return home.dataset(name) / "work" / f"{work}.json"


def earlier_outcome(card: Card, home: Home, key: str) -> PrepareOutcome | None:
    """The outcome of a commit that took place here and can be read now; None if there is none.

    A run killed right after its commit did not write down the version, and a version that was vacuumed may have been made again.
    """
    file, version = _outcome_file(home, card.name, key), readable_version(home, card.name, key)
    if version is None or not file.is_file():
        return None
    return PrepareOutcome(**read_json(file)).model_copy(update={"version": version, "already_done": True})


def is_whole(home: Home, name: str, key: str, work: str) -> bool:
    """Whether this home has all that the transaction `key` rejected, so that its rows can be selected from again.

    Not so in another home on the same object storage, nor where somebody deleted files.
    """
    file, lost = _outcome_file(home, name, key), lost_file(home, name, work)
    if not file.is_file() or not lost.is_file():
        return False
    dropped, before = read_json(file)["dropped"], read_json(lost)["dropped"]
    return count_rejected(rejected_folder(home, name, key)) == sum(dropped.values()) - sum(before.values())


def _outcome_file(home: Home, name: str, key: str) -> Path:
    return home.dataset(name) / "outcomes" / f"{key}.json"


def land(
    card: Card, home: Home, key: str, pieces: list[Piece], facts: dict[str, Any], report: Reporter
) -> PrepareOutcome:
    """Select from all rows of `pieces`, write what is kept and what is not, and commit it as the transaction `key`.

    facts: what the log is to remember; `work` among them names what was lost before.

    Raises:
        UserError: nothing is left, no original is left, or a threshold asks for a score that no row has.
    """
    lost = Lost.model_validate(read_json(lost_file(home, card.name, facts["work"])))
    deciding = [piece.read(DECIDING) for piece in pieces]
    rows = pa.concat_tables(deciding) if deciding else _no_rows()
    verdicts = select(card, rows, known(card, home))
    _check_usable(card, rows, verdicts, lost)
    store, rejected = TableStore.of(home, card.name), rejected_folder(home, card.name, key)
    nth = commits_of(home, card.name, key) + 1
    shutil.rmtree(rejected, ignore_errors=True)  # of a try that was killed, or of rows that were vacuumed
    stem = f"part-{key}" if nth == 1 else f"part-{key}-{nth}"  # the log may still know the files of an earlier time
    files: list[DataFile] = []
    for number, piece in enumerate(pieces):
        files += _write_piece(piece, verdicts, store, rejected, f"{stem}-{number:05d}")
        report(Progress(stage="prepare", done=number + 1, total=len(pieces), unit="shards written"))
    outcome = _outcome(card, key, files, verdicts, lost)
    page = home.dataset(card.name) / "reports" / f"{key}.html"
    write_report(page, card, outcome, lost, pieces, verdicts, rejected)
    outcome = outcome.model_copy(update={"report": str(page)})
    # Written before the commit, too: whoever finds the commit finds the counts.
    write_json(_outcome_file(home, card.name, key), outcome.model_dump(mode="json"))
    version = commit(home, card.name, key, files, facts, nth)
    outcome = outcome.model_copy(update={"version": version})
    write_json(_outcome_file(home, card.name, key), outcome.model_dump(mode="json"))
    return outcome


def _no_rows() -> pa.Table:
    return pa.schema([SCHEMA.field(name) for name in DECIDING]).empty_table()


def _write_piece(
    piece: Piece, verdicts: dict[str, Verdict], store: TableStore, rejected: Path, stem: str
) -> list[DataFile]:
    rows = piece.read(SCHEMA.names)
    found = [verdicts[key] for key in rows["key"].to_pylist()]
    splits = pa.array([verdict.split for verdict in found], pa.string())
    rows = rows.set_column(rows.column_names.index("split"), "split", splits)
    rows = rows.append_column(REASON, pa.array([verdict.reason for verdict in found], pa.string()))
    rows = rows.take(pc.sort_indices(rows.select(["bucket", "key"]), [("bucket", "ascending"), ("key", "ascending")]))
    kept, dropped = rows.filter(pc.equal(rows[REASON], "")), rows.filter(pc.not_equal(rows[REASON], ""))
    files = []
    for upscaled in (False, True):
        mine = kept.filter(pc.equal(kept["upscaled"], upscaled)).drop_columns([REASON])
        if mine.num_rows:
            files.append(write_part(store, stem, mine, upscaled))
    if dropped.num_rows:
        write_rejected(rejected, stem, dropped)
    return files


def _check_usable(card: Card, rows: pa.Table, verdicts: dict[str, Verdict], lost: Lost) -> None:
    kept = [not verdicts[key].reason for key in rows["key"].to_pylist()]
    if not any(kept):
        why = dict(Counter(lost.dropped) + Counter(verdict.reason for verdict in verdicts.values()))
        raise UserError(f"Nothing of '{card.name}' is usable; every row failed or was dropped: {why}.")
    if all(upscaled for upscaled, keeps in zip(rows["upscaled"].to_pylist(), kept, strict=True) if keeps):
        raise UserError(
            f"No image of '{card.name}' has a smaller side of {card.texture_min_side} px or more, so the texture "
            "generator would have nothing to learn from; lower texture_min_side in the card, or add larger images."
        )


def _outcome(card: Card, key: str, files: list[DataFile], verdicts: dict[str, Verdict], lost: Lost) -> PrepareOutcome:
    upscaled = sum(file.rows for file in files if file.upscaled)
    originals = sum(file.rows for file in files if not file.upscaled)
    dropped = Counter(lost.dropped) + Counter(verdict.reason for verdict in verdicts.values() if verdict.reason)
    held_out = sum(verdict.split == "held_out" and not verdict.reason for verdict in verdicts.values())
    return PrepareOutcome(
        dataset=card.name, version=-1, rows=originals + upscaled, originals=originals, upscaled=upscaled,
        held_out=held_out, dropped=dict(sorted(dropped.items())), key=key,
    )  # fmt: skip
