"""A dataset version for others: webdataset archives, or Parquet files that show their pictures in Hugging Face's `datasets`.

Our own cards read both.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pangu.config import Frozen
from pangu.data.captions import KEYWORDS, LANGUAGES, MORE
from pangu.data.card import Licence, load_card
from pangu.data.table.dataset_card import README, dataset_card
from pangu.data.table.delta import data_files, latest_version, read_rows
from pangu.data.table.rows_file import RowsFile
from pangu.data.table.schema import PARTITION, SCHEMA, SCORES, with_nulls
from pangu.data.table.store import TableStore
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, replacing

SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"), (b"GIF8", "gif"), (b"BM", "bmp"))
ROWS_AT_ONCE = 64
NUMBERS = tuple(name for name, kind in SCORES if kind == pa.float32())
"""Scores, any of which a row may lack."""
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HUGGING_FACE = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
"""What `datasets` looks for in a Parquet file's schema: which column holds pictures. It asks for the type `PICTURE` there."""


class ExportOutcome(Frozen):
    """The files that were written."""

    dataset: str
    version: int
    rows: int
    archives: int
    folder: str


def export_webdataset(
    home: Home, name: str, version: int | None, folder: Path, rows_per_archive: int = 1000, report: Reporter = silent
) -> ExportOutcome:
    """Write every row of a version to `folder`/NNNNNN.tar as KEY.EXT, KEY.txt, KEY.json; the same version gives the same bytes.

    Readers take the names and types of all samples from the first ones. So EXT is that of the first image throughout, whatever
    the others are (readers look at the bytes), and every field of the JSON has one type: missing text is "", and scores and
    captions, of which a row may have any number, are lists; keywords lie between |, as cards read them.

    Raises:
        UserError: no such version, or the folder holds other archives.
    """
    pinned = latest_version(home, name) if version is None else version
    total = read_rows(home, name, pinned, columns=["key"]).num_rows
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")):
        raise UserError(f"The folder {folder} holds archives already; name an empty one.")
    rows, archives, done, kind = (row for batch in _batches(home, name, pinned) for row in batch.to_pylist()), 0, 0, ""
    while batch := list(islice(rows, rows_per_archive)):
        kind = kind or _kind(batch[0]["image"])
        _write_archive(folder / f"{archives:06d}.tar", batch, kind)
        archives, done = archives + 1, done + len(batch)
        report(Progress(stage="export", done=done, total=total, unit="images"))
    return ExportOutcome(dataset=name, version=pinned, rows=done, archives=archives, folder=str(folder))


def export_parquet(
    home: Home,
    name: str,
    version: int | None,
    folder: Path,
    rows_per_file: int = 1000,
    report: Reporter = silent,
    licence: Licence | None = None,
) -> ExportOutcome:
    """Write every row of a version to `folder`/data/SPLIT-NNNNN-of-NNNNN.parquet, every column and missing values as null.

    `datasets.load_dataset(folder)` finds the splits by the README.md beside them, and the pictures by `HUGGING_FACE`.
    licence: of the whole; None: that of the card, if it is here.

    Raises:
        UserError: no such version, or the folder holds other files.
    """
    pinned = latest_version(home, name) if version is None else version
    counts = Counter(read_rows(home, name, pinned, columns=["split"])["split"].to_pylist())
    if folder.is_dir() and any(folder.rglob("*.parquet")):
        raise UserError(f"The folder {folder} holds Parquet files already; name an empty one.")
    schema = SCHEMA.set(SCHEMA.get_field_index("image"), pa.field("image", PICTURE)).with_metadata(HUGGING_FACE)
    store, files, done = TableStore(str(folder.absolute())), 0, 0
    for split, count in sorted(counts.items()):
        batches, shards = _batches(home, name, pinned, split), -(-count // rows_per_file)
        rows = (row for batch in batches for row in batch.to_pylist())
        for shard in range(shards):
            with store.parquet_writer(f"data/{split}-{shard:05d}-of-{shards:05d}.parquet", schema) as writer:
                left = islice(rows, rows_per_file)
                while batch := list(islice(left, ROWS_AT_ONCE)):
                    writer.write_table(pa.Table.from_pylist(list(map(_with_path, batch)), schema))
                    done += len(batch)
            files += 1
            report(Progress(stage="export", done=done, total=sum(counts.values()), unit="images"))
    if not (folder / README).exists():
        (folder / README).write_text(dataset_card(home, name, pinned, licence or _licence(name)), encoding="utf-8")
    return ExportOutcome(dataset=name, version=pinned, rows=done, archives=files, folder=str(folder))


def _licence(name: str) -> Licence | None:
    try:
        return load_card(name).licence
    except UserError:
        return None


def _batches(home: Home, name: str, version: int, split: str | None = None) -> Iterator[pa.Table]:
    """The rows of a version, or of one split, a few at a time; null where a file is older than a column."""
    for upscaled in (False, True):
        for file in data_files(home, name, version, upscaled):
            with RowsFile(file) as source:
                for batch in source.iter_batches(ROWS_AT_ONCE):
                    rows = batch
                    if split is not None:
                        rows = rows.filter(pc.equal(rows["split"], split))
                    yield with_nulls(_complete(rows, upscaled))


def _complete(rows: pa.Table, upscaled: bool) -> pa.Table:
    for field in SCHEMA:
        if field.name not in rows.column_names:
            value = pa.scalar(upscaled if field.name == PARTITION else None, field.type)
            rows = rows.append_column(field, pa.repeat(value, rows.num_rows))
    return rows.select(SCHEMA.names)


def _kind(image: bytes) -> str:
    return next((suffix for start, suffix in SIGNATURES if image.startswith(start)), "bin")


def _with_path(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"image": {"bytes": row["image"], "path": f"{row['key']}.{_kind(row['image'])}"}}


def _write_archive(path: Path, rows: list[dict[str, Any]], kind: str) -> None:
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for row in rows:
            caption = row["caption_en"] or row["caption_zh"] or ""
            _add(archive, f"{row['key']}.{kind}", row["image"])
            _add(archive, f"{row['key']}.txt", caption.encode())
            _add(archive, f"{row['key']}.json", json.dumps(_facts(row), ensure_ascii=False).encode())


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """What the JSON beside an image says: every field of one type in every row."""
    left_out = ("image", *NUMBERS, *MORE.values(), *KEYWORDS.values())
    facts = {name: value for name, value in row.items() if name not in left_out}
    facts |= {name: "|".join(row[name] or ()) for name in KEYWORDS.values()}
    for name, value in facts.items():
        if value is None or isinstance(value, bytes):
            facts[name] = "" if value is None else value.hex()
    facts["scores"] = [{"name": name, "value": row[name]} for name in NUMBERS if row[name] is not None]
    facts["captions"] = [
        {"language": language, "text": text}
        for language in LANGUAGES
        for text in (row[f"caption_{language}"], *(row[MORE[language]] or ()))
        if text
    ]
    return facts


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
