"""A committed dataset of a dozen drawings, half of them upscaled, for tests of what follows `prepare`."""

import hashlib
import io

import pyarrow as pa
from deltalake import CommitProperties, Transaction, write_deltalake
from PIL import Image

from pangu.data.example.openmoji import Emoji, render_png, selection
from pangu.data.table.delta import commit
from pangu.data.table.schema import SCHEMA
from pangu.data.table.store import TableStore
from pangu.data.table.version_files import write_part
from pangu.storage import Home

NAME = "small"


def row(one: Emoji, upscaled: bool, **changes: object) -> dict:
    """One row of the dataset table; an upscaled one is a small rendering, enlarged."""
    data = render_png(one, 48 if upscaled else 128)
    if upscaled:
        sink = io.BytesIO()
        Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.LANCZOS).save(sink, "PNG")
        data = sink.getvalue()
    side = 96 if upscaled else 128
    values = {
        "key": hashlib.sha256(data).hexdigest(), "image": data, "width": side, "height": side,
        "caption_en": one.caption_en, "caption_zh": one.caption_zh, "source_url": f"http://example.org/{one.stem}",
        "license": "CC BY-SA 4.0", "original_width": 48 if upscaled else 128, "original_height": 48 if upscaled else 128,
        "upscaled": upscaled, "upscale_factor": 2.0 if upscaled else 1.0, "upscaler": "lanczos" if upscaled else "",
        "min_timestep": 300 if upscaled else 0, "bucket": 0, "phash": "0" * 16, "split": "train",
    }  # fmt: skip
    return values | changes


def commit_rows(home: Home, rows: list[dict], key: str = "k", name: str = NAME, **facts: str) -> int:
    """Commit rows as the next version of a dataset; facts: what its log remembers."""
    files = []
    for upscaled in (False, True):
        mine = [values for values in rows if values["upscaled"] is upscaled]
        if mine:
            table = pa.Table.from_pylist(mine, schema=SCHEMA)
            files.append(write_part(TableStore.of(home, name), f"{key}-{upscaled}", table, upscaled))
    return commit(home, name, key, files, facts)


def commit_as_before(home: Home, rows: pa.Table, key: str = "old", name: str = NAME, **facts: str) -> None:
    """Commit rows as code of before did: images in the files of the version, which do not say `upscaled` themselves.

    rows: `SCHEMA`, or fewer columns: tables from before a column existed lack it.
    """
    metadata = {"pangu.key": key, **{f"pangu.{fact}": value for fact, value in facts.items()}}
    properties = CommitProperties(custom_metadata=metadata, app_transactions=[Transaction(key, 1)])
    write_deltalake(home.table_uri(name), rows, partition_by=["upscaled"], commit_properties=properties)


def small_dataset(home: Home, count: int = 12) -> int:
    """`count` drawings, every other one upscaled; returns the version."""
    return commit_rows(home, [row(one, index % 2 == 1) for index, one in enumerate(selection(count))])
