"""How much memory the steps that ask of all rows take, at 100,000 rows and at many times as many: metadata, images of a pixel.

Each step runs in a process of its own on a home that another process made. Its peak is that of its own memory (what lies in files
and is mapped, the page cache may drop, and is said beside it); the ratio includes what Python and its libraries take. Beside it
stands what a row costs, in processor time of the work alone, imports included: `us_a_row` of all rows, which few rows' start
fills, and `us_a_further_row`, of the rows that each number has more than the one before, in which it cancels out.

    python benchmarks/rows_scale.py                       # 1,000,000 rows
    python benchmarks/rows_scale.py --rows 10000 1000000 10000000 --steps sampler encode
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pangu.storage import Home

GOAL = 1.3
"""Peak memory at the largest number of rows, over that at the smallest."""
NAME, FEWEST, A_FILE = "rows", 100_000, 50_000
BUCKETS, LIMITS = 5, (0, 0, 300)
WIDTHS = (64, 80, 96, 112, 128)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="Where rows are made, and found again; default: a temporary one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        make, run = STEPS[arguments.one.removeprefix("make-")]
        work, [rows] = make if arguments.one.startswith("make-") else run, arguments.rows
        print(json.dumps(peaks(lambda: work(arguments.folder, rows))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for step in arguments.steps:
            measure(step, folder, arguments.rows)


def measure(step: str, folder: Path, rows: list[int]) -> None:
    """Print the step's JSON line."""
    found, counts = {}, sorted({FEWEST, *rows})
    told: dict[str, Any] = {"name": f"rows_{step}", "value": None, "goal": GOAL, "holds": None}
    for count in counts:
        place = folder / f"{STEPS[step][0].__name__}-{count}"
        if not place.exists():
            in_process(f"make-{step}", place, count)
        found[count] = in_process(step, place, count)
        if "why" in found[count]:
            print(json.dumps({**told, "rows": count, **found[count]}), flush=True)
            return
    few, many = found[FEWEST], found[counts[-1]]
    ratio = many["own_mb"] / few["own_mb"]
    told |= {"value": round(ratio, 3), "holds": ratio <= GOAL, "rows": counts}
    told["bytes_a_row"] = round((many["own_mb"] - few["own_mb"]) * 2**20 / max(counts[-1] - FEWEST, 1), 1)
    told |= {name: [round(found[count][name], 1) for count in counts] for name in ("own_mb", "with_mapped_mb", "cpu_s")}
    spent = [found[count]["cpu_s"] * 1e6 for count in counts]
    told["us_a_row"] = [round(one / count, 2) for one, count in zip(spent, counts, strict=True)]
    told["us_a_further_row"] = np.round(np.diff(spent) / np.diff(counts), 2).tolist()
    print(json.dumps(told), flush=True)


def in_process(step: str, folder: Path, rows: int) -> dict[str, Any]:
    """What `peaks` says of the step, or why it could not run."""
    command = [sys.executable, __file__, "--one", step, "--rows", str(rows), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def peaks(work: Callable[[], None]) -> dict[str, float]:
    """The most memory of this process while it works, MB: its own, and with mapped files; and its processor time, s."""
    own, over = 0, threading.Event()

    def watch() -> None:
        nonlocal own
        while not over.wait(0.005):
            own = max(own, status("RssAnon"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    began = time.process_time()
    work()
    spent = time.process_time() - began
    over.set()
    thread.join()
    return {"own_mb": max(own, status("RssAnon")) / 1024, "with_mapped_mb": status("VmHWM") / 1024, "cpu_s": spent}


def status(name: str) -> int:
    """A figure of this process, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def key(row: int) -> str:
    """64 hexadecimal digits, in another order than rows."""
    return f"{(row * 0x9E3779B97F4A7C15 + 1) % 2**64:016x}" + "0" * 48


def facts_of(rows: range) -> dict[str, Any]:
    """What generated rows say of themselves."""
    return {
        "key": [key(row) for row in rows],
        "width": pa.array([WIDTHS[row % BUCKETS] for row in rows], pa.int32()),
        "height": pa.array([96] * len(rows), pa.int32()),
        "min_timestep": [LIMITS[row % len(LIMITS)] for row in rows],
        "caption_en": [f"a generated picture with the number {row}" for row in rows],
        "caption_zh": [f"第{row}张图" for row in rows],
    }


# A training: rows of a finished local copy, the run's description, its timesteps, and steps in three epochs.


def make_copy(folder: Path, rows: int) -> None:
    import torch
    from safetensors.torch import save_file

    from pangu.data.encode.encoded import EMPTY_CAPTION_FILE
    from pangu.data.rows.local_cache import Column, write_rows

    folder.mkdir(parents=True)
    counts = [len(range(bucket, rows, BUCKETS)) for bucket in range(BUCKETS)]
    columns: dict[str, tuple[int, tuple[int, ...]]] = {
        f"latents-{bucket}": (count, (1, 1, 1)) for bucket, count in enumerate(counts)
    }
    columns |= {"tokens": (rows, (2, 1, 1)), "pooled": (rows, (2, 1))}
    columns |= {f"styled_{name}": (0, columns[name][1]) for name in ("tokens", "pooled")}
    for name, (count, shape) in columns.items():
        column = Column(folder / f"{name}.npy", count, shape)
        column.extend([bytes(2 * count * int(np.prod(shape)))])
        column.close()
    # In the order of the files, as a copy has them: the order of keys is made here, by whoever copies.
    order = np.argsort(np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
    table = pa.table(
        {
            "key": pa.array((key(row) for row in order.tolist()), pa.string(), size=rows),
            "min_timestep": np.asarray(LIMITS)[order % len(LIMITS)],
            "preset": order % BUCKETS, "slot": order // BUCKETS, "text": order, "style": np.full(rows, -1),
            "captions": np.ones(rows, np.int64),
        }
    )  # fmt: skip
    write_rows(folder, map(pa.table, table.to_batches(A_FILE)))
    save_file({"tokens": torch.zeros(1, 1, 1), "pooled": torch.zeros(1, 1)}, folder / EMPTY_CAPTION_FILE)


def train(folder: Path, rows: int) -> None:
    from pangu.config import NoiseSchedule, Optimization
    from pangu.data.rows.mapped import read_copy
    from pangu.diffusion.interval import TimeInterval
    from pangu.recipes import tiny
    from pangu.train.grids import chosen_rows
    from pangu.train.job import TrainJob, describe_run
    from pangu.train.randomness import draw_batch
    from pangu.train.sampler import DeterministicSampler
    from pangu.train.timestep_sampler import timestep_sampler

    found = read_copy(folder, folder)
    recipe = tiny()
    job = TrainJob(
        role="structure",
        run_name="r",
        encode_id="e",
        recipe=recipe,
        encoded=folder,
        run_folder=folder / f"run-{time.time_ns()}",
    )
    describe_run(job, found)
    chosen_rows(found, 16, recipe.seed)
    timesteps = timestep_sampler(found, TimeInterval(500, 1000), NoiseSchedule(), Optimization())
    sampler = DeterministicSampler(found.preset_n.numpy(), 256, recipe.seed)
    for epoch in range(3):
        for step in range(epoch * sampler.steps_of_epoch, epoch * sampler.steps_of_epoch + 20):
            draw_batch(found, sampler.rows_of(step).tolist(), 0, step, recipe.seed, timesteps, Optimization())


# Everything else reads a table, in the layout that `prepare` leaves.


def make_table(folder: Path, rows: int) -> None:
    from pangu.data.images import encode_png
    from pangu.data.table.delta import commit
    from pangu.data.table.schema import SCHEMA
    from pangu.data.table.store import TableStore
    from pangu.data.table.version_files import write_part

    home, pixel = Home(folder, tables=""), encode_png(np.zeros((1, 1, 3), np.uint8))
    store, files = TableStore.of(home, NAME), []
    work = "generated"
    for start in range(0, rows, A_FILE):
        some = range(start, min(start + A_FILE, rows))
        known = facts_of(some) | {"image": [pixel] * len(some), "phash": [key(row)[:16] for row in some]}
        known |= {"split": ["held_out" if row % 50 == 0 else "train" for row in some], "source_url": known["key"]}
        known |= {"original_width": known["width"], "original_height": known["height"], "license": ["CC0"] * len(some)}
        large = np.asarray([LIMITS[row % len(LIMITS)] == 0 for row in some])
        columns = {
            field.name: pa.array(known[field.name], field.type)
            if field.name in known
            else pa.nulls(len(some), field.type)
            for field in SCHEMA
        }
        for upscaled in (False, True):
            columns["upscaled"] = pa.array([upscaled] * len(some))
            mine = pa.table(columns, SCHEMA).filter(pa.array(large != upscaled))
            files.append(write_part(store, f"part-{work}-{start // A_FILE:05d}", mine, upscaled))
    commit(home, NAME, work, files, {})


def encoders() -> Any:
    from pangu.data.encode.encoded import Encoders

    return Encoders(
        autoencoder_hash="a", text_encoder_hashes=("t",), latent_scaling=1, latent_shift=0, spatial_factor=8,
        latent_channels=16, context_channels=8, pooled_channels=8, max_tokens=32,
    )  # fmt: skip


def encode(folder: Path, rows: int) -> None:
    """What is planned before the first image, which chunks lack a file, and which files would be joined."""
    from pangu.data.encode.chunks import chunks_of
    from pangu.data.encode.encode_plan import plan
    from pangu.recipes import tiny

    home = Home(folder, tables="")
    manifest = plan(NAME, 0, tiny(), home, encoders())
    missing = sum(bool(chunk.missing()) for chunk in chunks_of(manifest, home, folder / "encoded"))
    assert missing >= rows // 64


def evaluate(folder: Path, rows: int) -> None:
    """Prompts and candidates of a protocol that bounds them, and their images."""
    from pangu.evaluate.eval_set import gather
    from pangu.evaluate.protocol import Protocol

    protocol = Protocol(num_inference_steps=1, guidance_scale=1.0, candidates=400)
    gather(Home(folder, tables=""), NAME, 0, protocol, 8)


def make_version(folder: Path, rows: int) -> None:
    """Rows as workers leave them, and the version that a prepare selects from them."""
    import selection_scale

    home, made = Home(folder, tables=""), selection_scale.Generated.of(rows)
    selection_scale.generate(home, made.work, rows)
    made.land(home)


def refilter(folder: Path, rows: int) -> None:
    """Another threshold, of a version that is there."""
    import selection_scale

    from pangu.data.prepare.refilter import refilter as select_again

    outcome = select_again(selection_scale.card(min_side=100 + time.time_ns() % 200), Home(folder, tables=""), 0)
    assert 0 < outcome.rows < rows and not outcome.already_done


def copy(folder: Path, rows: int) -> None:
    """The local copy of a training that encodes while it trains: images one after the other, and their rows by key."""
    from pangu.data.encode.encode_plan import plan
    from pangu.data.rows.image_copy import ImageCopy
    from pangu.recipes import tiny

    home = Home(folder, tables="")
    data = plan(NAME, 0, tiny(), home, encoders()).job("texture")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ImageCopy.of(home, NAME, 0, data).write(Path(place))


# An ingest: lists of URLs that are refused, that are all the same, and that an earlier ingest knows.


def make_list(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True)
    write_list(folder / "urls.parquet", (f"http://10.0.0.1/{key(row)}.png" for row in range(rows)))


def make_known_list(folder: Path, rows: int) -> None:
    make_list(folder, rows)
    ingest(folder, rows)
    more = (f"http://10.0.0.1/{key(row)}.png" for row in range(rows + 1))
    write_list(folder / "urls.parquet", more)


def make_one_url(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True)


def write_list(path: Path, urls: Iterator[str]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pa.schema([("url", pa.string()), ("caption", pa.string())])) as writer:
        while some := list(islice(urls, A_FILE)):
            captions = [f"a generated picture, {url[-30:]}" for url in some]
            writer.write_table(pa.table({"url": some, "caption": captions}))


def listing_card(folder: Path) -> Any:
    from pangu.data.card import Card

    return Card.model_validate(
        {"name": NAME, "source": str(folder / "urls.parquet"), "columns": {"caption_en": "caption"}, "licence": {"name": "CC0"},
         "limits": {"allow_private_hosts": ["127.0.0.1"], "processes": 1}}
    )  # fmt: skip


def ingest(folder: Path, rows: int) -> None:
    """Every row ends under a reason before anything is asked for: what is left is the list, and what became of it."""
    from pangu.data.ingest.stage import ingest as run

    home = Home(folder / f"home-{time.time_ns()}", tables="")
    outcome = run(listing_card(folder), home)
    assert outcome.listed == outcome.failed["refused_address"] == rows


def ingest_again(folder: Path, rows: int) -> None:
    """A list of one row more than that of before, of which the earlier ingest knows all others."""
    from pangu.data.ingest.stage import ingest as run

    [home] = folder.glob("home-*")
    outcome = run(listing_card(folder), Home(home, tables=""))
    assert outcome.listed == rows + 1


def ingest_one_url(folder: Path, rows: int) -> None:
    """One URL in every row, of a server that counts how often it is asked."""
    from pangu.data.images import encode_png
    from pangu.data.ingest.stage import ingest as run

    picture, asked = encode_png(np.zeros((8, 8, 3), np.uint8)), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    write_list(folder / "urls.parquet", (f"http://127.0.0.1:{server.server_port}/one.png" for _ in range(rows)))
    outcome = run(listing_card(folder), Home(folder / f"home-{time.time_ns()}", tables=""))
    server.shutdown()
    assert (outcome.ok, len(asked)) == (rows, 1), f"{outcome.ok} rows of {len(asked)} requests"


def make_urls(folder: Path, rows: int) -> None:
    """What an ingest asks img2dataset for."""
    from pangu.data.ingest.raw import RawFolder, write_urls

    numbered = (range(start, min(start + A_FILE, rows)) for start in range(0, rows, A_FILE))
    write_urls(
        RawFolder(folder),
        (
            pa.table({"row": list(some), "url": [f"http://10.0.0.1/{key(row)}.png" for row in some]})
            for some in numbered
        ),
    )


def read_urls(folder: Path, rows: int) -> None:
    """The reader of img2dataset's own process, without a download."""
    import os

    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset.reader import Reader

    from pangu.data.ingest.raw import RawFolder

    with tempfile.TemporaryDirectory(dir=folder) as place:
        reader = Reader(str(RawFolder(folder).urls), "parquet", "url", None, None, None, ["row"], 1000, set(), place)
        shards = 0
        for _, file in reader:
            shards += 1
            Path(file).unlink()
        assert shards == -(-rows // 1000)


STEPS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None]]] = {
    "sampler": (make_copy, train),
    "encode": (make_table, encode),
    "evaluate": (make_table, evaluate),
    "refilter": (make_version, refilter),
    "copy": (make_table, copy),
    "ingest": (make_list, ingest),
    "ingest_again": (make_known_list, ingest_again),
    "ingest_one_url": (make_one_url, ingest_one_url),
    "ingest_urls": (make_urls, read_urls),
}
"""Step -> what makes its home, and what is measured in it."""


if __name__ == "__main__":
    main()
