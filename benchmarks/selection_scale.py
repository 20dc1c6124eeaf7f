"""What a selection over many rows costs: seconds, bytes written and memory of exact duplicates, landing and refilter.

Rows are generated as a prepare's workers leave them, with tiny images, so that nothing but the global steps is measured. Every
step runs in a process of its own, so that peaks do not mix. The rows have other hashes each, and one in a hundred is a near
duplicate of the one before it; one in ten of the listed rows has the bytes of another.

Memory is compared with that of 100,000 rows; what a row costs is told of all rows, and of those that each number has more than
the one before, in which the start cancels out.

    python benchmarks/selection_scale.py --rows 100000 1000000
    python benchmarks/selection_scale.py --rows 10000 100000 1000000 10000000 --steps plan land refilter
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from in_child import in_child

from pangu.data.card import Card
from pangu.data.images import encode_png
from pangu.data.ingest.raw import ROWS
from pangu.data.prepare.made_rows import Lost, Made, MadeRows, lost_file, made_file, manifest_file, work_folder
from pangu.data.prepare.publish import land
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.row_plan import plan_rows
from pangu.data.prepare.work_key import CODE_VERSION, keys_of
from pangu.data.table.placed_images import FOLDER, placing
from pangu.data.table.schema import SCHEMA, STORED
from pangu.data.table.store import TableStore
from pangu.progress import silent
from pangu.storage import Home, write_json

GOAL = 1.3
"""Peak memory at the largest number of rows, over that at the smallest."""
FEWEST = 100_000
STEPS = ("plan", "land", "refilter", "near duplicates")
SHARD_ROWS = 10_000
INGEST = "generated"
PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="the last two need `land`")
    parser.add_argument("--folder", type=Path, help="where rows are generated; default: a temporary folder")
    arguments = parser.parse_args()
    found, counts = {}, sorted({FEWEST, *arguments.rows})
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for rows in counts:
            home = Home(Path(folder) / str(rows), tables="")
            found[rows] = measure(home, rows, arguments.steps)
            shutil.rmtree(home.root)
    small, large = found[FEWEST], found[counts[-1]]
    growth = {step: round(large[step]["peak MB"] / small[step]["peak MB"], 3) for step in large}
    worst = max(growth.values())
    spent = {step: [found[count][step]["CPU seconds"] * 1e6 for count in counts] for step in arguments.steps}
    told: dict[str, Any] = {"name": "selection_scale", "value": worst, "goal": GOAL, "holds": worst <= GOAL}
    told |= {"rows": counts, "memory_ratio": growth, "measured": list(found.values())}
    told["us_a_row"] = {step: np.round(np.divide(one, counts), 2).tolist() for step, one in spent.items()}
    more = {step: np.diff(one) / np.diff(counts) for step, one in spent.items()}
    told["us_a_further_row"] = {step: np.round(one, 2).tolist() for step, one in more.items()}
    print(json.dumps(told))


def measure(home: Home, rows: int, asked: list[str]) -> dict[str, dict[str, float]]:
    strict, alike = card(min_side=200), card(min_side=200, near_duplicates={"max_bits": 4})
    made = Generated.of(rows)
    in_child(lambda: generate(home, made.work, rows))
    steps: dict[str, Callable[[], Any]] = {
        "plan": lambda: plan_rows(home.root / "rows.parquet", home.root / "plan.parquet"),
        "land": lambda: made.land(home),
        "refilter": lambda: refilter(strict, home, 0),
        "near duplicates": lambda: refilter(alike, home, 0),
    }
    found = {}
    for name in asked:
        found[name] = in_child(partial(timed, home, steps[name]))
        facts = ", ".join(f"{fact} {value:,.6g}" for fact, value in found[name].items())
        print(f"{rows:,} rows, {name}: {facts}", flush=True)
    return found


@dataclass(frozen=True)
class Generated:
    """Rows of a card without thresholds, by the keys under which a prepare would have made them."""

    key: str
    work: str
    rows: int

    @classmethod
    def of(cls, rows: int) -> "Generated":
        return cls(*keys_of(card(), INGEST), rows)

    def land(self, home: Home) -> Any:
        """Make version 0 of them."""
        facts = {"card": card().digest(), "ingest_id": INGEST, "code_version": CODE_VERSION, "work": self.work}
        return land(card(), home, self.key, made_rows(home, self.work, self.rows), facts, silent)


def timed(home: Home, step: Callable[[], Any]) -> dict[str, float]:
    images = home.table("scale") / FOLDER
    before, before_images = bytes_in(home.root), bytes_in(images)
    started, cpu = time.monotonic(), cpu_seconds()
    outcome = step()
    facts = {"seconds": round(time.monotonic() - started, 1), "CPU seconds": round(cpu_seconds() - cpu, 2)}
    facts |= {"peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    facts |= {"MB written": round((bytes_in(home.root) - before) / 1e6, 1)}
    facts |= {"image bytes written": bytes_in(images) - before_images}
    return facts | ({"rows": outcome.rows} if hasattr(outcome, "rows") else {})


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def card(**filters: Any) -> Card:
    return Card.model_validate(
        {
            "name": "scale", "source": "generated.parquet", "columns": {"caption_en": "caption"}, "licence": {"name": "-"},
            "texture_min_side": 100, "upscale": {"target_side": 128, "upscaler": "lanczos", "min_timestep": 300},
            "splits": {"held_out": {"fraction": 0.01}}, "filters": filters,
        }
    )  # fmt: skip


def made_rows(home: Home, work: str, rows: int) -> MadeRows:
    return MadeRows.of(work_folder(home, "scale", work), -(-rows // SHARD_ROWS))


def generate(home: Home, work: str, rows: int) -> dict[str, float]:
    """What an ingest listed, and what workers made of it."""
    folder, store = work_folder(home, "scale", work), TableStore.of(home, "scale")
    folder.mkdir(parents=True)
    with pq.ParquetWriter(home.root / "rows.parquet", ROWS) as listing:
        for number, start in enumerate(range(0, rows, SHARD_ROWS)):
            count = min(SHARD_ROWS, rows - start)
            shard, file = rows_of(start, count), made_file(folder, number)
            writing = TableStore(str(folder)).parquet_writer(file.name, STORED, compression="zstd")
            with placing(store, work, f"{number:05d}") as placer, writing as writer:
                writer.write_table(placer.place(shard))
            images = {path: store.size(path) or 0 for path in placer.rows}
            manifest = Made(rows=count, size=file.stat().st_size, dropped={}, images=images)
            write_json(manifest_file(folder, number), manifest.model_dump(mode="json"))
            listing.write_table(listed(shard, start, number))
    lost = Lost(listed=rows, failed={}, dropped={}, shards=-(-rows // SHARD_ROWS))
    write_json(lost_file(home, "scale", work), lost.model_dump())
    return {}


def rows_of(start: int, count: int) -> pa.Table:
    random, numbers = np.random.default_rng(start), np.arange(start, start + count)
    hashes = random.integers(0, 2**63, count, dtype=np.int64)
    hashes[99::100] = hashes[98::100] ^ 1
    sides = random.integers(64, 1024, count, dtype=np.int32)
    texts = [
        f"a picture of something or other, as a page has it beside an image, number {number}" for number in numbers
    ]
    columns: dict[str, Any] = {
        "key": [f"{number:064x}" for number in numbers],
        "image": [PICTURE + number.tobytes() for number in numbers],
        "width": sides, "height": sides, "original_width": sides, "original_height": sides,
        "caption_en": texts, "source_url": [f"https://example.org/images/{number}.jpg" for number in numbers],
        "license": ["CC0"] * count, "upscaled": sides < 128, "upscale_factor": np.ones(count, np.float32),
        "min_timestep": np.where(sides < 128, 300, 0), "bucket": sides % 9, "phash": [f"{one:016x}" for one in hashes],
        "colours": [bytes([number // 2 % 200]) * 48 for number in numbers], "aspect": np.ones(count, np.float32),
        "english": random.random(count, np.float32), "split": ["train"] * count,
    }  # fmt: skip
    filled = {
        field.name: pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in SCHEMA
    }
    return pa.table(filled, schema=SCHEMA)


def listed(shard: pa.Table, start: int, number: int) -> pa.Table:
    """The rows as an ingest listed them; one in ten has the bytes of the row before it."""
    keys = np.asarray(shard["key"], object)
    keys[9::10] = keys[8::10]
    numbers = np.arange(start, start + shard.num_rows)
    columns = {"row": numbers, "raw_row": numbers, "shard": np.full(shard.num_rows, number), "sha256": keys}
    columns |= {"url": shard["source_url"], "caption_en": shard["caption_en"], "license": shard["license"]}
    empty = ["reason", "ingest", "caption_zh"]
    return pa.table(
        {
            field.name: pa.array([""] * shard.num_rows)
            if field.name in empty
            else columns.get(field.name, pa.nulls(shard.num_rows))
            for field in ROWS
        }
    ).cast(ROWS)


if __name__ == "__main__":
    main()
