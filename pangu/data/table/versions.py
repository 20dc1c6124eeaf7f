"""Looking at the versions of a dataset: their log, one version, the difference of two, and which are kept."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pangu.config import Frozen
from pangu.data.locks import only_preparing
from pangu.data.table.admission_levels import FACT, AdmissionLevels
from pangu.data.table.delta import data_files, history, images_of, is_readable, latest_version, open_table, read_rows
from pangu.data.table.placed_images import FOLDER
from pangu.data.table.rejected import rejected_folders, works_folder
from pangu.data.table.rows_file import bytes_of
from pangu.data.table.schema import FACTS
from pangu.data.table.store import TableStore, storage_errors
from pangu.errors import UserError
from pangu.storage import Home

EXAMPLES = 5
UNFINISHED_HOURS = 7 * 24
"""So long a prepare of another home may take from its first file of the table to its commit; Delta's own default."""


class VersionEntry(Frozen):
    """One line of the log."""

    version: int
    at: str = Field(description="UTC")
    key: str = Field("", description="Digest of what went into it; also of what MLflow records")
    facts: dict[str, str] = Field({}, description="What the writer wrote down: card, ingest, code, parent version")
    readable: bool = Field(description="False once vacuumed")


class VersionFacts(Frozen):
    """What is in one version, from its facts; no image is read."""

    dataset: str
    version: int
    key: str
    rows: int
    bytes: int
    files: int
    counts: dict[str, dict[str, int]] = Field(description="Rows by split, partition, bucket, upscaler, licence, style")
    quantiles: dict[str, tuple[float, float, float]] = Field(description="5 %, 50 % and 95 % of each measured number")


class VersionDiff(Frozen):
    """What changed between two versions, by key."""

    dataset: str
    old: int
    new: int
    added: int
    removed: int
    changed: dict[str, int] = Field(description="Rows that both have, by the column that differs")
    examples: dict[str, tuple[str, ...]] = Field(description="A few source URLs of each kind")


def log(home: Home, name: str) -> list[VersionEntry]:
    """Every version that the log still knows, newest first."""
    entries = []
    for entry in history(home, name):
        if str(entry.get("operation", "")).startswith("VACUUM"):
            continue
        facts = {key.removeprefix("pangu."): str(value) for key, value in entry.items() if key.startswith("pangu.")}
        facts.pop("images", None)
        version, at = int(entry["version"]), datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        entries.append(
            VersionEntry(
                version=version,
                at=at.isoformat(timespec="seconds"),
                key=facts.pop("key", ""),
                facts=facts,
                readable=is_readable(home, name, entry),
            )
        )
    return entries


def key_of(home: Home, name: str, version: int) -> str:
    """The digest of what went into a version; "" where its log cannot be read from here or no longer tells."""
    try:
        return next(
            (str(entry.get("pangu.key", "")) for entry in history(home, name) if entry["version"] == version), ""
        )
    except UserError:
        return ""


def admission_of(home: Home, name: str, version: int) -> AdmissionLevels | None:
    """Of one version; None where its log does not say: of versions that were made before it did, or long ago."""
    told = (entry.get(f"pangu.{FACT}") for entry in history(home, name) if entry["version"] == version)
    fact = next(told, None)
    return AdmissionLevels.model_validate_json(fact) if fact else None


def entry_of(home: Home, name: str, version: int) -> VersionEntry:
    """The log's line of one version.

    Raises:
        UserError: there is no such version, or its files were vacuumed.
    """
    data_files(home, name, version)
    for entry in log(home, name):
        if entry.version == version:
            return entry
    raise UserError(f"The log of dataset '{name}' no longer knows version {version}.")


def show(home: Home, name: str, version: int | None = None) -> VersionFacts:
    """Counts and distributions of one version, by default the newest."""
    version = latest_version(home, name) if version is None else version
    rows = read_rows(home, name, version, columns=FACTS)
    actions = pa.table(open_table(home, name, version).get_add_actions(flatten=True))
    counted = ("split", "upscaled", "bucket", "upscaler", "license", "style", "caption_en_by", "caption_zh_by")
    return VersionFacts(
        dataset=name,
        version=version,
        key=entry_of(home, name, version).key,
        rows=rows.num_rows,
        bytes=bytes_of(data_files(home, name, version)),
        files=actions.num_rows,
        counts={column: _counts(rows[column]) for column in counted},
        quantiles=_quantiles(rows),
    )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    found = Counter(str(value) for value in column.to_pylist() if value not in (None, ""))
    return dict(found.most_common(20))


def _quantiles(rows: pa.Table) -> dict[str, tuple[float, float, float]]:
    found = {}
    for field in rows.schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)) or field.name == "bucket":
            continue
        values = rows[field.name].drop_null().to_numpy()
        if len(values):
            low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
            found[field.name] = (round(float(low), 4), round(float(middle), 4), round(float(high), 4))
    return found


def diff(home: Home, name: str, old: int, new: int) -> VersionDiff:
    """What version `new` has that `old` has not, and the other way round."""
    before, after = (read_rows(home, name, version, columns=FACTS) for version in (old, new))
    added = after.filter(pc.invert(pc.is_in(after["key"], before["key"].combine_chunks())))
    removed = before.filter(pc.invert(pc.is_in(before["key"], after["key"].combine_chunks())))
    changed, examples = _changed(before, after)
    for kind, rows in (("added", added), ("removed", removed)):
        examples[kind] = tuple(rows["source_url"].slice(0, EXAMPLES).to_pylist())
    return VersionDiff(
        dataset=name,
        old=old,
        new=new,
        added=added.num_rows,
        removed=removed.num_rows,
        changed=changed,
        examples=examples,
    )


def _changed(before: pa.Table, after: pa.Table) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    at = pc.index_in(before["key"], after["key"].combine_chunks())
    both = pc.is_valid(at)
    ours, theirs = before.filter(both), after.take(at.filter(both))
    changed, examples = {}, {}
    for column in FACTS:
        mine, other = _comparable(ours[column]), _comparable(theirs[column])
        same = pc.fill_null(pc.equal(mine, other), False)
        same = pc.or_(same, pc.and_(pc.is_null(mine), pc.is_null(other)))
        if differing := ours.num_rows - (pc.sum(same).as_py() or 0):
            changed[column] = differing
            examples[column] = tuple(ours.filter(pc.invert(same))["source_url"].slice(0, EXAMPLES).to_pylist())
    return changed, examples


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that can be compared; Arrow compares no lists."""
    return pc.binary_join(column, "\n") if pa.types.is_list(column.type) else column


def vacuum(home: Home, name: str, keep: int, dry_run: bool, unfinished_hours: int = UNFINISHED_HOURS) -> list[str]:
    """Delete the files that none of the newest `keep` versions needs: of the table, of images, and of rejected and made rows.

    Images stay as long as a version is kept that the same work made, because other thresholds may want any of them. Files that no
    version ever held were left by a prepare that was killed, or belong to one that is under way. The lock tells them apart where
    tables lie in the home. Elsewhere another home may be preparing, so only those go that are older than `unfinished_hours`.

    Returns:
        The files that are deleted, or would be.
    """
    with only_preparing(home, name):
        kept = [entry for entry in log(home, name) if entry.readable][:keep]
        versions = [entry.version for entry in kept]
        if home.tables:
            gone = _vacuum(home, name, versions, dry_run, full=False, hours=0)
            gone |= _vacuum(home, name, versions, dry_run, full=True, hours=unfinished_hours)
        else:
            gone = _vacuum(home, name, versions, dry_run, full=True, hours=0)
        gone |= _vacuum_images(home, name, versions, dry_run, unfinished_hours if home.tables else 0)
        rejected = [file for folder in rejected_folders(home, name, kept) for file in sorted(folder.glob("*.parquet"))]
        works = {entry.facts.get("work") for entry in kept}
        made = (folder for folder in sorted(works_folder(home, name).glob("*/")) if folder.name not in works)
        rejected += [file for folder in made for file in sorted(folder.glob("*.parquet"))]
        for file in () if dry_run else rejected:
            file.unlink()
    return [*sorted(gone), *map(str, rejected)]


def _vacuum(home: Home, name: str, kept: list[int], dry_run: bool, full: bool, hours: int) -> set[str]:
    """One run of Delta's own vacuum: of files that versions held, or with `full` also of those that none ever did."""
    with storage_errors(TableStore.of(home, name).uri):
        gone = open_table(home, name).vacuum(
            retention_hours=hours, dry_run=dry_run, enforce_retention_duration=False, full=full, keep_versions=kept
        )
    return set(gone)


def _vacuum_images(home: Home, name: str, kept: list[int], dry_run: bool, hours: int) -> set[str]:
    """Delete the image files whose folder no kept version names; what no version names at all, from an age of `hours` on."""
    entries, store = history(home, name), TableStore.of(home, name)
    needed = {folder for entry in entries if entry["version"] in kept for folder in images_of(entry)}
    known = {folder for entry in entries for folder in images_of(entry)}
    gone, before = set[str](), datetime.now(UTC) - timedelta(hours=hours)
    for file in store.files_in(FOLDER):
        inside = file.path[file.path.rindex(f"/{FOLDER}/") + 1 :]
        folder = inside.split("/")[1]
        if folder in needed or (folder not in known and file.mtime > before):
            continue
        gone.add(inside)
        if not dry_run:
            store.delete(file.path)
    return gone
