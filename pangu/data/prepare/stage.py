"""Prepare: from raw shards to one dataset version. Make rows with every score, select, write, commit, report.

Killed at any instant, nothing of it is visible or all of it is, and the next run goes on after the last finished shard. Knows
nothing of downloads or training.
"""

import shutil

from pangu.data.card import Card
from pangu.data.ingest.stage import require_finished
from pangu.data.locks import only_preparing
from pangu.data.prepare.publish import PrepareOutcome, earlier_outcome, is_whole, land
from pangu.data.prepare.row_sources import pieces_of_version
from pangu.data.prepare.work_key import CODE_VERSION, keys_of, work_folder
from pangu.data.prepare.workers import ALONE, WorkerSettings
from pangu.data.table.admission_levels import FACT
from pangu.data.table.versions import VersionEntry, log
from pangu.errors import UserError
from pangu.progress import Reporter, silent
from pangu.storage import Home

__all__ = ["PrepareOutcome", "WorkerSettings", "prepare"]


def prepare(
    card: Card, ingest_id: str, home: Home, report: Reporter = silent, execution: WorkerSettings = ALONE
) -> PrepareOutcome:
    """Make a dataset version from a finished ingest; the same card and ingest again add nothing.

    Where an earlier version was made by the same work, only the selection is done again.

    Raises:
        UserError: no such ingest, or nothing usable in it, or nothing at least as large as the texture threshold.
    """
    raw = require_finished(home, card.name, ingest_id)
    key, work = keys_of(card, ingest_id)
    with only_preparing(home, card.name):
        done = earlier_outcome(card, home, key)
        if done is not None:
            # A run that was killed after its commit left it.
            shutil.rmtree(work_folder(home, card.name, work), ignore_errors=True)
            return done
        facts = {"card": card.digest(), "ingest_id": ingest_id, "code_version": CODE_VERSION, "work": work}
        earlier = _same_work(home, card.name, work)
        if earlier is not None:
            facts |= {FACT: earlier.facts[FACT]} if FACT in earlier.facts else {}
            return land(card, home, key, pieces_of_version(home, card.name, earlier), facts, report)
        from pangu.data.prepare.all_shards import make_all_rows  # brings torch along, which nothing before needs

        pieces, levels = make_all_rows(card, raw, home, work, report, execution)
        facts[FACT] = levels.model_dump_json()
        outcome = land(card, home, key, pieces, facts, report)
        shutil.rmtree(work_folder(home, card.name, work))  # the table and the rejected rows hold all of it now
        return outcome


def _same_work(home: Home, name: str, work: str) -> VersionEntry | None:
    """The newest readable version that the same work made, with all that it rejected."""
    try:
        entries = log(home, name)
    except UserError:
        return None
    same = (entry for entry in entries if entry.readable and entry.facts.get("work") == work)
    return next((entry for entry in same if is_whole(home, name, entry.key, work)), None)
