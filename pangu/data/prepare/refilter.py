"""Other thresholds or splits for a version that exists: the selection is done again, nothing is decoded, scored or upscaled."""

from pangu.data.card import Card
from pangu.data.locks import only_preparing
from pangu.data.prepare.adopt import adopt
from pangu.data.prepare.made_rows import whole_work
from pangu.data.prepare.publish import PrepareOutcome, earlier_outcome, is_whole, land
from pangu.data.prepare.work_key import keys_of
from pangu.data.table.versions import VersionEntry, log
from pangu.errors import UserError
from pangu.progress import Reporter, silent
from pangu.storage import Home


def refilter(card: Card, home: Home, version: int, report: Reporter = silent) -> PrepareOutcome:
    """Select again from all rows that made a version, by the thresholds and splits that the card says now; no image is written.

    Raises:
        UserError: no such version, or the card would make other rows, not select others.
    """
    with only_preparing(home, card.name):
        entry = entry_to_refilter(card, home, version)
        key, work = keys_of(card, entry.facts.get("ingest_id", ""), entry.facts.get("code_version", ""))
        if (done := earlier_outcome(card, home, key)) is not None:
            return done
        made = whole_work(home, card.name, work)
        if made is None and is_whole(home, card.name, entry.key, work):
            made = adopt(home, card.name, entry, work)
        if made is None:
            raise incomplete(card, entry)
        facts = {**entry.facts, "card": card.digest(), "refiltered": version}
        return land(card, home, key, made, facts, report)


def entry_to_refilter(card: Card, home: Home, version: int) -> VersionEntry:
    """The log's line of a version whose rows the card would select from.

    Raises:
        UserError: no such version, or the card would make other rows, not select others.
    """
    entry = _entry(home, card.name, version)
    ingest_id = entry.facts.get("ingest_id", "")
    if entry.facts.get("work") != keys_of(card, ingest_id, entry.facts.get("code_version", ""))[1]:
        raise UserError(
            f"Version {version} of '{card.name}' was made by other settings than thresholds and splits; run "
            f"`pangu prepare {card.name} --ingest-id {ingest_id}` instead."
        )
    return entry


def incomplete(card: Card, entry: VersionEntry) -> UserError:
    """What is said where rows that a version rejected are not there to select from."""
    return UserError(
        f"What version {entry.version} of '{card.name}' rejected is not all here: it was made in another home, or files were "
        f"deleted; run `pangu prepare {card.name} --ingest-id {entry.facts.get('ingest_id', '')}` instead."
    )


def _entry(home: Home, name: str, version: int) -> VersionEntry:
    found = {entry.version: entry for entry in log(home, name)}
    if version not in found or not found[version].readable:
        have = ", ".join(str(number) for number, entry in found.items() if entry.readable)
        raise UserError(f"Dataset '{name}' has no readable version {version}; it has {have}.")
    return found[version]
