"""Prepare: from raw shards to one dataset version. Make rows with every score, select, write, commit, report.

Killed at any instant, nothing of it is visible or all of it is, and the next run goes on after the last finished shard. Knows
nothing of downloads or training.
"""

from pangu.data.card import Card
from pangu.data.ingest.stage import require_finished
from pangu.data.locks import only_preparing
from pangu.data.prepare.adopt import adopt
from pangu.data.prepare.made_rows import Lost, MadeRows, lost_file, whole_work
from pangu.data.prepare.publish import PrepareOutcome, earlier_outcome, is_whole, land
from pangu.data.prepare.work_key import CODE_VERSION, keys_of
from pangu.data.prepare.workers import ALONE, WorkerSettings
from pangu.data.table.admission_levels import FACT
from pangu.data.table.versions import log
from pangu.errors import UserError
from pangu.progress import Reporter, silent
from pangu.storage import Home, read_json

__all__ = ["PrepareOutcome", "WorkerSettings", "prepare"]


def prepare(
    card: Card, ingest_id: str, home: Home, report: Reporter = silent, execution: WorkerSettings = ALONE
) -> PrepareOutcome:
    """Make a dataset version from a finished ingest; the same card and ingest again add nothing.

    Where the same work was done before, only the selection is done again.

    Raises:
        UserError: no such ingest, or nothing usable in it, or nothing at least as large as the texture threshold.
    """
    raw = require_finished(home, card.name, ingest_id)
    key, work = keys_of(card, ingest_id)
    with only_preparing(home, card.name):
        done = earlier_outcome(card, home, key)
        if done is not None:
            return done
        facts = {"card": card.digest(), "ingest_id": ingest_id, "code_version": CODE_VERSION, "work": work}
        made = whole_work(home, card.name, work) or _adopted(home, card.name, work)
        if made is None:
            from pangu.data.prepare.all_shards import make_all_rows  # brings torch along, which nothing before needs

            made = make_all_rows(card, raw, home, work, report, execution)
        admission = Lost.model_validate(read_json(lost_file(home, card.name, work))).admission
        return land(card, home, key, made, facts | ({FACT: admission} if admission else {}), report)


def _adopted(home: Home, name: str, work: str) -> MadeRows | None:
    """The rows of the newest readable version of before that the same work made, with all that it rejected."""
    try:
        entries = log(home, name)
    except UserError:
        return None
    same = (entry for entry in entries if entry.readable and entry.facts.get("work") == work)
    whole = next((entry for entry in same if is_whole(home, name, entry.key, work)), None)
    return adopt(home, name, whole, work) if whole else None
