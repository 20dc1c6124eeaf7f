"""Landing: from rows and the verdicts on them to files of the table, rows put aside, a report, and one commit."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.prepare.kept_cards import keep_card
from pangu.data.prepare.made_rows import Lost, MadeRows, lost_file
from pangu.data.prepare.report import EXAMPLES, write_report
from pangu.data.prepare.select import Selection, select
from pangu.data.table.delta import commit, commits_of, readable_version
from pangu.data.table.rejected import REASON, REJECTED, count_rejected, examples, rejected_folder
from pangu.data.table.schema import STORED, with_nulls
from pangu.data.table.store import TableStore, storage_errors
from pangu.data.table.version_files import DataFile, PartWriter
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


def earlier_outcome(card: Card, home: Home, key: str) -> PrepareOutcome | None:
    """The outcome of a commit that took place here and can be read now; None if there is none.

    Its number is that of the log: a version that was vacuumed may have been made again under another.
    """
    file, version = _outcome_file(home, card.name, key), readable_version(home, card.name, key)
    if version is None or not file.is_file():
        return None
    return PrepareOutcome(**(read_json(file) | {"version": version, "already_done": True}))


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


def land(card: Card, home: Home, key: str, made: MadeRows, facts: dict[str, Any], report: Reporter) -> PrepareOutcome:
    """Select from all rows that one piece of work made, and commit what is kept as the transaction `key`; no image is copied.

    facts: what the log is to remember; `work` among them names what was lost before.

    Raises:
        UserError: nothing is left, no original is left, a threshold asks for a score that no row has, or the disk is full.
    """
    lost = Lost.model_validate(read_json(lost_file(home, card.name, facts["work"])))
    with _scratch(home.dataset(card.name) / "staging") as scratch:
        selection = select(card, made, home, scratch)
        _check_usable(card, selection, lost)
        store, rejected = TableStore.of(home, card.name), rejected_folder(home, card.name, key)
        nth = commits_of(home, card.name, key) + 1
        shutil.rmtree(rejected, ignore_errors=True)  # of a try that was killed, or of rows that were vacuumed
        stem = f"part-{key}" if nth == 1 else f"part-{key}-{nth}"  # the log may still know the files of an earlier time
        files = _write(made, selection, store, rejected, stem, report)
    outcome = _outcome(card, key, files, selection, lost)
    page = home.dataset(card.name) / "reports" / f"{key}.html"
    kept = [store.file(file.path) for file in files]
    write_report(page, card, outcome, lost, kept, examples(rejected, store.uri, EXAMPLES))
    outcome = outcome.model_copy(update={"report": str(page)})
    keep_card(card, home)
    # Before the commit, which is the last thing that is written: whoever finds it finds the counts.
    write_json(_outcome_file(home, card.name, key), outcome.model_dump(mode="json", exclude={"version"}))
    return outcome.model_copy(update={"version": commit(home, card.name, key, files, facts, nth)})


@contextmanager
def _scratch(staging: Path) -> Iterator[Path]:
    """A folder for what a selection needs on the way; what a run that was killed left goes first."""
    scratch = staging / "selection"
    for left in staging.glob("*/"):
        shutil.rmtree(left)
    scratch.mkdir(parents=True)
    try:
        with storage_errors(str(staging)):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(
    made: MadeRows, selection: Selection, store: TableStore, rejected: Path, stem: str, report: Reporter
) -> list[DataFile]:
    """The files of a version, and beside it one of all rows that it rejected."""
    done, total = 0, selection.counts.total()
    with ExitStack() as opened:
        writers = {upscaled: opened.enter_context(PartWriter(store, stem, upscaled)) for upscaled in (False, True)}
        aside = TableStore(str(rejected)).parquet_writer(f"{stem}.parquet", REJECTED, compression="zstd")
        rejects = opened.enter_context(aside) if selection.dropped() else None
        for rows, verdicts in zip(made.batches(STORED.names), selection.verdicts(), strict=True):
            rows = rows.set_column(rows.column_names.index("split"), STORED.field("split"), verdicts["split"])
            is_kept = pc.equal(verdicts["reason"], "")
            for upscaled, writer in writers.items():
                writer.add(rows.filter(pc.and_(is_kept, pc.equal(rows["upscaled"], upscaled))))
            if rejects is not None:
                dropped = with_nulls(rows).append_column(REASON, verdicts["reason"]).filter(pc.invert(is_kept))
                rejects.write_table(dropped.cast(REJECTED))
            done += rows.num_rows
            report(Progress(stage="prepare", done=done, total=total, unit="rows selected"))
    return [file for writer in writers.values() for file in writer.files]


def _check_usable(card: Card, selection: Selection, lost: Lost) -> None:
    kept = [fate for fate in selection.counts if not fate.reason]
    if not kept:
        why = dict(Counter(lost.dropped) + selection.dropped())
        raise UserError(f"Nothing of '{card.name}' is usable; every row failed or was dropped: {why}.")
    if all(fate.upscaled for fate in kept):
        raise UserError(
            f"No image of '{card.name}' has a smaller side of {card.texture_min_side} px or more, so the texture "
            "generator would have nothing to learn from; lower texture_min_side in the card, or add larger images."
        )


def _outcome(card: Card, key: str, files: list[DataFile], selection: Selection, lost: Lost) -> PrepareOutcome:
    upscaled = sum(file.rows for file in files if file.upscaled)
    originals = sum(file.rows for file in files if not file.upscaled)
    dropped = Counter(lost.dropped) + selection.dropped()
    held_out = sum(n for fate, n in selection.counts.items() if fate.split == "held_out" and not fate.reason)
    return PrepareOutcome(
        dataset=card.name, version=-1, rows=originals + upscaled, originals=originals, upscaled=upscaled,
        held_out=held_out, dropped=dict(sorted(dropped.items())), key=key,
    )  # fmt: skip
