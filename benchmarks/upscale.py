"""Images/s that a worker of prepare upscales against a bare ncnn loop with the same threads; and whether memory stays flat.

The worker also reads the raw shard, decodes, hashes, scores captions, encodes PNG and writes Parquet; the loop only calls the
network, tile by tile as the worker does, on pixels that are there. CPU seconds of both, after a first image each, in
alternating rounds of one run.

    python benchmarks/upscale.py --side 256 --images 8 --rounds 9
    python benchmarks/upscale.py --side 24 --target 48 --images 500 --rounds 20    # memory over many rows
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image

from pangu.config import NoiseSchedule
from pangu.data.card import Card
from pangu.data.images import encode_png
from pangu.data.ingest.local_sources import SHARD
from pangu.data.ingest.raw import IMAGE_COLUMN, RawFolder, RowState, states_table, write_rows
from pangu.data.ingest.source import LISTED
from pangu.data.prepare.admission import Admitter
from pangu.data.prepare.make_rows import ShardJob, ShardWorker
from pangu.data.prepare.row_plan import plan_rows
from pangu.data.prepare.upscale import upscaler_of
from pangu.data.prepare.workers import WorkerSettings
from pangu.data.table.store import TableStore

GOAL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--target", type=int, default=512)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--upscaler", default="spanx2")
    arguments = parser.parse_args()
    images, card = pictures(arguments.images, arguments.side), card_of(arguments)
    speeds: dict[str, list[float]] = {"prepare": [], "ncnn": []}
    memory = []
    with tempfile.TemporaryDirectory() as folder:
        raw = RawFolder(Path(folder) / "raw")
        write_shard(raw, images)
        [planned] = plan_rows(raw.rows, Path(folder) / "plan.parquet").shards
        network = upscaler_of(card, arguments.threads)
        worker = ShardWorker(
            card,
            Admitter(None, 300, NoiseSchedule()),
            Path(folder),
            TableStore(f"{folder}/table"),
            WorkerSettings(arguments.threads),
        )
        network.upscale(images[0])
        worker(ShardJob(arguments.rounds, raw, planned))  # imports and first calls are no speed
        for number in range(arguments.rounds):
            for name in ("prepare", "ncnn") if number % 2 else ("ncnn", "prepare"):
                started = time.process_time()
                if name == "ncnn":
                    for image in images:
                        network.upscale(image)
                else:
                    worker(ShardJob(number, raw, planned))
                speeds[name].append(arguments.images / (time.process_time() - started))
            memory.append(psutil.Process().memory_info().rss / 2**20)
    for name, found in speeds.items():
        print(f"{name}: {', '.join(f'{speed:.2f}' for speed in found)} images per CPU second")
    ratio = statistics.median(ours / bare for ours, bare in zip(speeds["prepare"], speeds["ncnn"], strict=True))
    rows = arguments.images * arguments.rounds
    growth = memory[-1] / memory[min(1, len(memory) - 1)]
    facts = {"rows": rows, "memory_ratio": round(growth, 3), "side": [arguments.side, arguments.target]}
    print(json.dumps({"name": "upscale", "value": round(ratio, 3), "goal": GOAL, "holds": ratio >= GOAL, **facts}))


def card_of(arguments: argparse.Namespace) -> Card:
    upscale = {"target_side": arguments.target, "upscaler": arguments.upscaler, "min_timestep": 300}
    return Card.model_validate(
        {
            "name": "upscale", "source": "x.csv", "columns": {"caption_en": "en"}, "licence": {"name": "-"},
            "texture_min_side": arguments.target, "upscale": upscale,
        }
    )  # fmt: skip


def pictures(count: int, side: int) -> list[np.ndarray]:
    """Smooth colours with some noise: as hard to compress as photographs."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 4, (side, side, 3))
        images.append(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))
    return images


def write_shard(raw: RawFolder, images: list[np.ndarray]) -> None:
    """One raw shard, and its rows as a listing has them."""
    data = [encode_png(image) for image in images]
    rows = [{"row": number, "error_message": "", IMAGE_COLUMN: one} for number, one in enumerate(data)]
    TableStore(str(raw.shards)).write_parquet(raw.shard_file(0).name, pa.Table.from_pylist(rows, schema=SHARD))
    facts = {"caption_en": "a smooth picture", "caption_zh": "", "url": "http://example.org/x.png", "license": "-"}
    states = {number: RowState(0, "", hashlib.sha256(one).hexdigest()) for number, one in enumerate(data)}
    listed = pa.Table.from_pylist([{**facts, "row": number} for number in states], schema=LISTED)
    write_rows(raw, [listed], [states_table(states)])


if __name__ == "__main__":
    main()
