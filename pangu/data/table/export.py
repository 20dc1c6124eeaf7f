"""A dataset version as webdataset archives: KEY.EXT, KEY.txt and KEY.json for every row. Our own cards read them, too."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pangu.config import Frozen
from pangu.data.table.delta import data_files, latest_version
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home

SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"), (b"GIF8", "gif"), (b"BM", "bmp"))


class ExportOutcome(Frozen):
    """The archives that were written."""

    dataset: str
    version: int
    rows: int
    archives: int
    folder: str


def export_webdataset(
    home: Home, name: str, version: int | None, folder: Path, rows_per_archive: int = 1000, report: Reporter = silent
) -> ExportOutcome:
    """Write every row of a version to `folder`/NNNNNN.tar; the same version gives the same bytes.

    Raises:
        UserError: no such version, or the folder holds other archives.
    """
    pinned = latest_version(home, name) if version is None else version
    files = data_files(home, name, pinned)
    total = sum(pq.read_metadata(file).num_rows for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")):
        raise UserError(f"The folder {folder} holds archives already; name an empty one.")
    rows, archives = _rows(files), 0
    for start in range(0, total, rows_per_archive):
        wanted = min(rows_per_archive, total - start)
        _write_archive(folder / f"{archives:06d}.tar", [next(rows) for _ in range(wanted)])
        archives += 1
        report(Progress(stage="export", done=start + wanted, total=total, unit="images"))
    return ExportOutcome(dataset=name, version=pinned, rows=total, archives=archives, folder=str(folder))


def _rows(files: list[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        with pq.ParquetFile(file) as source:
            for batch in source.iter_batches(64):
                yield from batch.to_pylist()


def _write_archive(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with tarfile.open(temporary, "w") as archive:
        for row in rows:
            image, key = row.pop("image"), row["key"]
            kind = next((suffix for start, suffix in SIGNATURES if image.startswith(start)), "bin")
            facts = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
            caption = row["caption_en"] or row["caption_zh"] or ""
            _add(archive, f"{key}.{kind}", image)
            _add(archive, f"{key}.txt", caption.encode())
            _add(archive, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
    temporary.replace(path)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
