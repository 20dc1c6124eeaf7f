"""Rows/s of prepare with one and more worker processes, and how its cost grows with the number of rows.

The same drawings are listed again and again with one changed pixel, so that no row is a duplicate. Figures are CPU seconds of all
processes, which a busy machine changes little, and wall-clock rows/s.

    python benchmarks/prepare_scale.py --rows 1000 10000 --workers 1 2
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from in_child import in_child

from pangu.data.card import Card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.images import decode_rgb, encode_png
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import WorkerSettings, prepare
from pangu.storage import Home

GOAL = 1.10
"""CPU seconds a row at the largest number of rows, over those at the smallest."""
SIDES = (48, 96)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--upscaler", default="lanczos")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        by_workers = {n: measure(Path(folder), arguments.rows[0], n, arguments.upscaler) for n in arguments.workers}
        known = {arguments.rows[0]: by_workers[1]} if 1 in by_workers else {}
        by_rows = known | {n: measure(Path(folder), n, 1, arguments.upscaler) for n in arguments.rows if n not in known}
    for workers, found in by_workers.items():
        print(
            f"{arguments.rows[0]} rows, {workers} workers: {found['rows_per_s']:.1f} rows/s, {found['memory_mb']:.0f} MB"
        )
    for rows, found in by_rows.items():
        print(f"{rows} rows: {1000 * found['cpu_s'] / rows:.2f} ms of CPU a row, {found['memory_mb']:.0f} MB at most")
    small, large = arguments.rows[0], arguments.rows[-1]
    growth = (by_rows[large]["cpu_s"] / large) / (by_rows[small]["cpu_s"] / small)
    memory = by_rows[large]["memory_mb"] / by_rows[small]["memory_mb"]
    facts = {"rows": [small, large], "memory_ratio": round(memory, 3)}
    print(
        json.dumps({"name": "prepare_scale", "value": round(growth, 3), "goal": GOAL, "holds": growth <= GOAL, **facts})
    )


def measure(folder: Path, rows: int, workers: int, upscaler: str) -> dict[str, float]:
    """CPU seconds, rows/s and the largest memory of one prepare, in a process of its own so that peaks do not mix."""
    source = folder / f"{rows}.parquet"
    if not source.exists():
        write_source(source, rows)
    card, home = card_of(source, upscaler), Home(folder / f"home-{rows}-{workers}")
    ingested = in_child(lambda: ingest(card, home).model_dump(mode="json"))
    return in_child(lambda: run(card, home, ingested, workers))


def card_of(source: Path, upscaler: str) -> Card:
    return Card.model_validate(
        {
            "name": "scale", "source": str(source), "columns": {"image": "image", "caption_en": "caption"},
            "licence": {"name": "-"}, "texture_min_side": 64, "limits": {"rows_per_shard": 250},
            "upscale": {"target_side": 96, "upscaler": upscaler, "min_timestep": 300},
            "filters": {"near_duplicates": {"max_bits": 0, "max_colour": 0}},
        }
    )  # fmt: skip


def run(card: Card, home: Home, ingested: dict[str, Any], workers: int) -> dict[str, float]:
    peak, started, cpu = 0.0, time.monotonic(), cpu_seconds()

    def watch(_: object) -> None:
        nonlocal peak
        me = psutil.Process()
        peak = max(peak, sum(process.memory_info().rss for process in (me, *me.children(recursive=True))))

    prepare(card, ingested["ingest_id"], home, watch, WorkerSettings(workers=workers))
    wall = time.monotonic() - started
    return {"cpu_s": cpu_seconds() - cpu, "rows_per_s": ingested["ok"] / wall, "memory_mb": peak / 2**20}


def cpu_seconds() -> float:
    """Of this process and of the ones that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def write_source(path: Path, rows: int) -> None:
    drawings = [decode_rgb(render_png(one, SIDES[index % 2])).image_hwc for index, one in enumerate(selection(200))]
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, rows, 500):
            batch = [changed(drawings[index % 200], index) for index in range(start, min(rows, start + 500))]
            captions = [f"a drawing, number {index}" for index in range(start, start + len(batch))]
            writer.write_table(pa.table({"image": batch, "caption": captions}, schema=schema))


def changed(drawing: np.ndarray, number: int) -> bytes:
    marked = drawing.copy()
    marked[0, 0] = (number % 256, number // 256 % 256, number // 65_536)
    return encode_png(marked)


if __name__ == "__main__":
    main()
