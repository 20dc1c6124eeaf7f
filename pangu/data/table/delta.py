"""The dataset table: a Delta table, partitioned so that originals and upscaled rows never share a file.

Owns the one transaction that makes files visible, and reading a pinned version. Files are written first
(`pangu.data.table.version_files`), then one `commit` shows all of them or none.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, DeltaProtocolError, SchemaMismatchError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from pangu.data.card import Split
from pangu.data.table.placed_images import FOLDER
from pangu.data.table.rows_file import RowsFile
from pangu.data.table.schema import PARTITION, SCHEMA, STORED, with_lacking, with_nulls
from pangu.data.table.store import TableStore, located, storage_errors
from pangu.data.table.version_files import DataFile
from pangu.errors import UserError
from pangu.storage import Home

COMMIT_ATTEMPTS = 20
LISTED_WITHIN_S = 30
"""As long is waited for a store to list what was committed."""
HOPELESS = (SchemaMismatchError, DeltaProtocolError)
"""Errors of a commit that come again however often it is tried; all others may be another writer's turn."""
IMAGES = "pangu.images"
"""In the log: how many image files each folder of them had at a commit, as JSON."""


def commit(home: Home, name: str, key: str, files: list[DataFile], facts: dict[str, Any], nth: int = 1) -> int:
    """Make `files` the whole content of the dataset's next version; returns that version.

    One transaction: killed at any instant, readers see the old version or the new one. The new version replaces the old
    one's rows, because a dataset is what its card's source lists now: appending would double every row that both lists
    hold. The old version stays readable by its number. Of two writers at once one is refused by the log, looks again, and
    lands on top of the other.

    The same `key` commits once for each `nth`: a higher one where rows are made again after a vacuum deleted them.
    """
    for attempt in range(COMMIT_ATTEMPTS):
        if commits_of(home, name, key) >= nth:
            return version_of(home, name, key)
        try:
            _transact(home, name, key, files, facts, nth)
            break
        except DeltaError as error:
            if isinstance(error, HOPELESS) or attempt == COMMIT_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * (attempt + 1))
    return _version_when_listed(home, name, key)


def _version_when_listed(home: Home, name: str, key: str) -> int:
    """As `version_of`, of a transaction that has just taken place: a store may list what was written only some seconds later."""
    last = time.monotonic() + LISTED_WITHIN_S
    while True:
        try:
            return version_of(home, name, key)
        except UserError:
            if time.monotonic() > last:
                raise
            time.sleep(0.1)


def _transact(home: Home, name: str, key: str, files: list[DataFile], facts: dict[str, Any], nth: int) -> None:
    store, now = TableStore.of(home, name), int(time.time() * 1000)
    actions: list[Any] = [
        AddAction(file.path, file.size, {PARTITION: str(file.upscaled).lower()}, now, True, file.statistics)
        for file in files
    ]
    properties = CommitProperties(
        custom_metadata={
            "pangu.key": key,
            IMAGES: json.dumps(_image_files(store, {folder for file in files for folder in file.images})),
            **{f"pangu.{fact}": str(value) for fact, value in facts.items()},
        },
        app_transactions=[Transaction(key, nth)],
    )
    schema, table = Schema.from_arrow(STORED), _open(home, name)
    with storage_errors(store.uri):
        if table is None:
            create_table_with_add_actions(
                store.delta_uri, schema, actions, mode="error", partition_by=[PARTITION],
                storage_options=store.options, commit_properties=properties,
            )  # fmt: skip
        else:
            table.create_write_transaction(actions, "overwrite", schema, [PARTITION], commit_properties=properties)


def _image_files(store: TableStore, folders: Iterable[str]) -> dict[str, int]:
    """How many finished files each folder has; a run that was killed may have left others."""
    listed = {folder: store.files_in(f"{FOLDER}/{folder}") for folder in sorted(folders)}
    return {folder: sum(file.extension == "parquet" for file in files) for folder, files in listed.items()}


def images_of(entry: Mapping[str, Any]) -> dict[str, int]:
    """The folders that hold the images of one version, by its entry in the log; none of a version that holds them itself."""
    return dict(json.loads(entry.get(IMAGES) or "{}"))


def commits_of(home: Home, name: str, key: str) -> int:
    """How often the transaction `key` has taken place; its versions may have been vacuumed since."""
    table = _open(home, name)
    return (table.transaction_version(key) or 0) if table is not None else 0


def readable_version(home: Home, name: str, key: str) -> int | None:
    """The newest version that the transaction `key` made and whose files are all there; None if there is none."""
    if not commits_of(home, name, key):
        return None
    made = (entry for entry in history(home, name) if entry.get("pangu.key") == key)
    return next((int(entry["version"]) for entry in made if is_readable(home, name, entry)), None)


def is_readable(home: Home, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether the version of an entry of the log can be opened, and its files and those of its images are there."""
    version, images = int(entry["version"]), images_of(entry)
    try:
        _check_present(name, version, _files(home, name, version))
    except UserError:
        return False
    there = _image_files(TableStore.of(home, name), images)
    return all(there[folder] >= count for folder, count in images.items())


def version_of(home: Home, name: str, key: str) -> int:
    """The newest version that the transaction `key` made.

    Raises:
        UserError: the log no longer tells.
    """
    for entry in history(home, name):
        if entry.get("pangu.key") == key:
            return int(entry["version"])
    raise UserError(
        f"The log of dataset '{name}' no longer tells which version transaction {key} made; keep its log longer."
    )


def history(home: Home, name: str) -> list[dict[str, Any]]:
    """The entries of the log, newest first, each with its version.

    deltalake reads the newest log but numbers its entries down from the version that it has loaded. So a commit that lands
    in between would shift all numbers: what was read counts only if nothing landed.

    Raises:
        UserError: there is no such dataset, or it changes faster than it can be read.
    """
    for _ in range(COMMIT_ATTEMPTS):
        table = open_table(home, name)
        entries, version = table.history(), table.version()
        with storage_errors(home.table_uri(name)):
            table.update_incremental()  # reads what is new, not the whole log once more
        if table.version() == version:
            return entries
    raise UserError(f"The log of dataset '{name}' changes faster than it can be read; wait for its writers.")


def latest_version(home: Home, name: str) -> int:
    """The newest version of a dataset that somebody wrote; a vacuum has a number of its own in the log, and changes no row.

    Raises:
        UserError: it has none yet.
    """
    for entry in history(home, name):
        if not str(entry.get("operation", "")).startswith("VACUUM"):
            return int(entry["version"])
    return open_table(home, name).version()


def data_files(home: Home, name: str, version: int, upscaled: bool | None = None) -> list[str]:
    """The Parquet files of a pinned version, of one partition or of both, sorted: absolute paths, or URIs that pyarrow opens.

    Raises:
        UserError: no such dataset or version, or its files were vacuumed.
    """
    files = _files(home, name, version, upscaled)
    if version != latest_version(home, name):
        _check_present(name, version, files)
    return files


def _files(home: Home, name: str, version: int, upscaled: bool | None = None) -> list[str]:
    """What `data_files` returns, there or not."""
    actions = pa.table(open_table(home, name, version).get_add_actions(flatten=True))
    if upscaled is not None:
        actions = actions.filter(pc.equal(actions[f"partition.{PARTITION}"], upscaled))
    store = TableStore.of(home, name)
    return sorted(store.file(path) for path in actions["path"].to_pylist())


def files_digest(home: Home, name: str, version: int) -> str:
    """First 16 hex digits of the SHA-256 of the names and sizes of a version's files, which are written once and never again:
    it tells a dataset from another one that was built anew under the same name and number.

    Raises:
        UserError: no such dataset or version.
    """
    actions = pa.table(open_table(home, name, version).get_add_actions(flatten=True))
    files = sorted(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _check_present(name: str, version: int, files: list[str]) -> None:
    if not files:
        return
    filesystem, paths = located(files)
    infos = (filesystem or pyarrow.fs.LocalFileSystem()).get_file_info(paths)
    if gone := [info.path for info in infos if info.type == pyarrow.fs.FileType.NotFound]:
        raise UserError(
            f"Version {version} of dataset '{name}' was vacuumed (its file {gone[0].rpartition('/')[2]} is gone); use a "
            f"version that `pangu dataset log {name}` calls readable."
        )


def read_rows(
    home: Home,
    name: str,
    version: int,
    columns: list[str] | None = None,
    upscaled: bool | None = None,
    split: Split | None = None,
) -> pa.Table:
    """Rows of a pinned version, sorted by key within each partition; opens the files of the asked partition only.

    Raises:
        UserError: no such dataset, version or column.
    """
    names = columns or SCHEMA.names
    if unknown := [column for column in names if column not in SCHEMA.names]:
        raise UserError(f"Dataset rows have no column '{unknown[0]}'; they have {', '.join(SCHEMA.names)}.")
    parts = []
    for partition in (False, True) if upscaled is None else (upscaled,):
        if files := data_files(home, name, version, partition):
            parts.append(_read_partition(files, partition, names, split))
    schema = pa.schema([SCHEMA.field(column) for column in names])
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _each_group(files: list[str], columns: list[str], split: Split | None) -> Iterator[pa.Table]:
    """Rows with their images, of all row groups or of one split."""
    for file in files:
        with RowsFile(file) as source:
            for group in range(source.num_row_groups):
                there = [name for name in dict.fromkeys([*columns, "split"]) if name in source.schema_arrow.names]
                rows = source.read_row_group(group, there)
                rows = rows if split is None else rows.filter(pc.equal(rows["split"], split))
                rows = with_lacking(rows, columns).select(columns)
                yield rows.cast(pa.schema([SCHEMA.field(name) for name in columns]))


def _read_partition(files: list[str], upscaled: bool, names: list[str], split: Split | None) -> pa.Table:
    physical = [column for column in names if column != PARTITION]
    needed = list(dict.fromkeys([*physical, "key"]))
    chosen = None if split is None else pc.field("split") == split
    if "image" in needed:
        rows = pa.concat_tables(_each_group(files, needed, split))
    else:
        filesystem, paths = located(files)
        from pyarrow.dataset import dataset  # brings pandas along, which whoever only asks what there is has no use for

        source = dataset(paths, schema=STORED, format="parquet", filesystem=filesystem)
        rows = source.to_table(columns=needed, filter=chosen)
    rows = rows.take(pc.sort_indices(rows, [("key", "ascending")]))
    rows = rows.append_column(SCHEMA.field(PARTITION), pa.array([upscaled] * rows.num_rows, pa.bool_()))
    return with_nulls(rows.select(names))


def open_table(home: Home, name: str, version: int | None = None) -> DeltaTable:
    """The table of a dataset, at its newest version or at a given one.

    Raises:
        UserError: there is none, it has no such version, or its store cannot be reached.
    """
    try:
        table = _open(home, name, version)
    except DeltaError as error:
        table = _open(home, name)
        have = f"its versions go from 0 to {table.version()}" if table else "it has none"
        raise UserError(f"Dataset '{name}' has no version {version} that can be read; {have}.") from error
    if table is None:
        where = home.tables or home.root
        raise UserError(f"There is no dataset '{name}' under {where}; make it with `pangu prepare`.")
    return table


def _open(home: Home, name: str, version: int | None = None) -> DeltaTable | None:
    store = TableStore.of(home, name)
    try:
        with storage_errors(store.uri):
            return DeltaTable(store.delta_uri, version=version, storage_options=store.options)
    except TableNotFoundError:
        return None
