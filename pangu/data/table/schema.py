"""The columns of a dataset table: names, types and meanings."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.captions import KEYWORDS, MORE

PARTITION = "upscaled"
"""Originals and upscaled rows never share a file."""

IMAGE = [
    ("key", pa.string()),  # SHA-256 of the bytes that were downloaded
    ("image", pa.binary()),  # encoded: the downloaded bytes, or PNG where they had to be changed
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("caption_en", pa.string()),  # null: none
    ("caption_zh", pa.string()),
    ("source_url", pa.string()),
    ("license", pa.string()),
    ("original_width", pa.int32()),
    ("original_height", pa.int32()),
    ("upscaled", pa.bool_()),
    ("upscale_factor", pa.float32()),  # 1 for originals
    ("upscaler", pa.string()),  # null for originals
    ("min_timestep", pa.int32()),  # the lowest t this image may train; 0 for originals
    ("bucket", pa.int32()),  # index of the resolution preset
    ("phash", pa.string()),  # 64-bit perceptual hash, hex
    ("split", pa.string()),
    ("style", pa.string()),  # null: none
]
SCORES = [
    ("colours", pa.binary()),  # 4 x 4 x 3 mean colours, beside phash, which sees none
    ("caption_en_by", pa.string()),  # the model that wrote it; null: as listed
    ("caption_zh_by", pa.string()),
    ("aspect", pa.float32()),  # longer over shorter side
    ("english", pa.float32()),  # probability that caption_en is English, not another language; null: none, or too short
    ("chinese", pa.float32()),  # share of caption_zh's letters that are Han; null: none
    ("text_area", pa.float32()),  # share of the image under text; null: not measured
    ("nsfw", pa.float32()),  # highest score of an exposed body part; null: not measured
    ("clip_score", pa.float32()),  # 100 max(cos, 0) of image and caption; null: not measured
    ("aesthetic", pa.float32()),  # null: not measured
]
CAPTIONS = [
    *((name, pa.list_(pa.string())) for name in MORE.values()),  # beside caption_en, caption_zh; null: none
    *((f"{name}_by", pa.string()) for name in MORE.values()),  # the model that wrote the last of them; null: as listed
]
WORDS = [
    (name, pa.list_(pa.string())) for name in KEYWORDS.values()
]  # what the image may also be asked for by; null: none
SCHEMA = pa.schema([*IMAGE, *SCORES, *CAPTIONS, *WORDS])
"""Tables from before a column was added lack it, and read as null."""
FACTS = [name for name in SCHEMA.names if name != "image"]
PLACE = [
    (
        "image_file",
        pa.string(),
    ),  # relative to the table's folder: the file of `pangu.data.table.placed_images` that holds it
    ("image_row", pa.int32()),  # counted from 0 in that file
    ("image_bytes", pa.int32()),
]
STORED = pa.schema([*(SCHEMA.field(name) for name in FACTS), *PLACE])
"""What a file of a version holds: where the image lies in its place. In files of before it is the image itself."""


def with_lacking(rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """The same rows with those of the named columns that they are too old for; null there."""
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(SCHEMA.field(name), pa.nulls(rows.num_rows, SCHEMA.field(name).type))
    return rows


def with_nulls(rows: pa.Table) -> pa.Table:
    """The same rows, where missing text is null and never "", as it was in tables of before."""
    for place, field in enumerate(rows.schema):
        if field.type == pa.string():
            empty = pc.equal(pc.binary_length(rows[field.name]), 0)
            rows = rows.set_column(place, field, pc.if_else(empty, pa.scalar(None, field.type), rows[field.name]))
    return rows
