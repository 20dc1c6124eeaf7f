"""Images a second of our rows against webdataset, HuggingFace `datasets` and mosaicml-streaming, on the same images.

Two cases count. `rows`: latents and both embeddings of a row as batches of half precision, as stored. `images`: JPEG files
decoded and fitted to (B, 3, S, S) uint8 batches, by `fit_pixels` in ours and as their documentation shows it (Pillow, the whole
file) in the others. A third case, `images, our decoding for all`, shows how much of that is the decoding. Everything is
shuffled. Contestants take turns in rounds of one epoch each, the median round counts. Each has the best configuration that its
documentation gives, both with `--workers` workers (processes; ours are threads) and in the main thread, and the better of the
two counts:

    ours        the local copy that training makes of the Parquet files once, read by a random permutation; one thread draws rows,
                as in training; as many threads as the others have workers decode images
    webdataset  16 tar shards of raw bytes, a shuffle buffer, batches collated inside the workers
    datasets    memory-mapped Arrow in Arrow format, a random permutation, whole batches fetched at once
    streaming   MDS shards of fixed-size arrays on the local disk, its own shuffle and loader

    pip install -c constraints.txt -e '.[bench]'
    pip install --no-deps mosaicml-streaming==0.13.0
    python benchmarks/loader.py [--rows 2048] [--images 256] [--batch 64] [--workers 2] [--rounds 5]

mosaicml-streaming asks for torchvision and old versions of numpy and transformers, none of which its reader needs: hence
`--no-deps`, and the empty module that stands for torchvision while it is imported.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from other_loaders import Case, Decode, Epoch, FromBytes, as_batch, with_datasets, with_streaming, with_webdataset
from PIL import Image
from torch import Tensor

from pangu.data.captions import Caption
from pangu.data.encode.views import View
from pangu.data.rows.image_copy import Images
from pangu.data.rows.local_cache import Column, write_rows
from pangu.data.rows.mapped import read_copy

GOAL = 1.0
SHAPES: dict[str, tuple[int, ...]] = {"latents": (4, 64, 64), "tokens": (77, 768), "pooled": (768,)}


def random_rows(count: int) -> Case:
    """Rows of noise: 151 KB each."""
    generator = np.random.default_rng(0)
    rows = [
        {
            name: generator.standard_normal(shape, np.float32).astype(np.float16).tobytes()
            for name, shape in SHAPES.items()
        }
        for _ in range(count)
    ]
    return Case(rows, {name: FromBytes(shape) for name, shape in SHAPES.items()})


def random_images(count: int, source_side: int, side: int, as_ours: bool) -> Case:
    """JPEG files of smooth noise."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        small = Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8))
        sink = io.BytesIO()
        small.resize((source_side, source_side), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
        rows.append({"image": sink.getvalue()})
    return Case(rows, {"image": Decode(side, as_ours)})


def in_threads(draw: Callable[[Any], Any], work: Sequence[Any], workers: int) -> Iterator[Any]:
    """`draw` of every piece of work in order, by so many threads, each up to four pieces ahead as the others' workers are."""
    if workers == 0:
        yield from map(draw, work)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        for piece in work:
            waiting.append(pool.submit(draw, piece))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def permutation(count: int, batch: int) -> list[list[int]]:
    order = np.random.permutation(count)[: count // batch * batch]
    return order.reshape(-1, batch).tolist()


def our_rows(case: Case, folder: Path, batch: int, workers: int) -> Epoch:
    """The columns that `pangu.data.rows.local_copy` writes, in both languages; a batch reads one."""
    count = len(case.rows)
    for name, column, repeat in (("latents", "latents-0", 1), ("tokens", "tokens", 2), ("pooled", "pooled", 2)):
        shape = SHAPES[name] if repeat == 1 else (repeat, *SHAPES[name])
        file = Column(folder / f"{column}.npy", count, shape)
        file.extend(row[name] for row in case.rows for _ in range(repeat))
        file.close()
    for name in ("tokens", "pooled"):
        Column(folder / f"styled_{name}.npy", 0, (2, *SHAPES[name])).close()
    zeros, every = np.zeros(count, np.int64), np.arange(count)
    keys = [f"{index:08d}" for index in range(count)]
    columns = {"min_timestep": zeros, "preset": zeros, "slot": every, "text": every, "style": zeros - 1}
    write_rows(folder, [pa.table({"key": keys, **columns, "captions": zeros + 1})])
    from safetensors.numpy import save_file

    empty = {name: np.zeros((1, *SHAPES[name]), np.float32) for name in ("tokens", "pooled")}
    save_file(empty, folder / "empty_caption.safetensors")
    rows = read_copy(folder, folder)

    def draw(indices: list[int]) -> tuple[Tensor, ...]:
        return rows.latents(indices), *rows.captions(indices, [Caption()] * len(indices))

    return lambda: in_threads(draw, permutation(count, batch), min(1, workers))


def our_images(case: Case, folder: Path, batch: int, workers: int) -> Epoch:
    """The file that `pangu.data.rows.image_copy` writes."""
    lengths = [len(row["image"]) for row in case.rows]
    ends = np.cumsum([0, *lengths])
    (folder / "images.bin").write_bytes(b"".join(row["image"] for row in case.rows))
    zeros = np.zeros(len(lengths), np.int64)
    keys = [f"{index:08d}" for index in range(len(lengths))]
    write_rows(folder, [pa.table({"key": keys, "shape": zeros, "start": ends[:-1], "end": ends[1:]})])
    side = case.decode["image"].side  # type: ignore[attr-defined]
    images = Images(folder, View(sizes=((side, side),), kept=(0,)), max(1, workers))

    def epoch() -> Iterator[Tensor]:
        # A second batch is begun while the last images of the first are decoded, so that no thread waits.
        return in_threads(lambda rows: as_batch(images.pixels(rows)), permutation(len(lengths), batch), min(2, workers))

    return epoch


def images_per_second(epoch: Epoch, batch: int) -> float:
    """One epoch, from asking for its first batch to having its last."""
    began, batches = time.perf_counter(), 0
    for drawn in epoch():
        values = drawn.values() if isinstance(drawn, dict) else drawn
        first = drawn if isinstance(drawn, Tensor) else next(iter(values))
        assert len(first) == batch
        batches += 1
    return batches * batch / (time.perf_counter() - began)


def compare(name: str, case: Case, ours: Any, folder: Path, asked: argparse.Namespace) -> float:
    """Print the table of one case; returns ours / the fastest other."""
    ways = {"ours": ours, "webdataset": with_webdataset, "datasets": with_datasets, "streaming": with_streaming}
    makers = {f"{way}, {count} workers": (make, count) for way, make in ways.items() for count in (asked.workers, 0)}
    epochs = {}
    for contestant, (make, workers) in makers.items():
        place = folder / name / contestant.replace(", ", "-").replace(" ", "-")
        place.mkdir(parents=True)
        epochs[contestant] = make(case, place, asked.batch, workers)
    speeds: dict[str, list[float]] = {contestant: [] for contestant in makers}
    for round_number in range(asked.rounds + 1):
        for contestant, epoch in epochs.items():
            speed = images_per_second(epoch, asked.batch)
            if round_number:  # the first one starts the workers and fills the page cache
                speeds[contestant].append(speed)
    medians = {contestant: statistics.median(values) for contestant, values in speeds.items()}
    print(f"{name}: batches of {asked.batch}, {asked.workers} workers, {len(case.rows)} rows")
    for contestant, values in speeds.items():
        rounds = ", ".join(f"{value:,.0f}" for value in values)
        print(f"  {contestant:22} {medians[contestant]:10,.1f} images/s (rounds: {rounds})", flush=True)
    best = {way: max(value for contestant, value in medians.items() if contestant.startswith(way)) for way in ways}
    return best.pop("ours") / max(best.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--source-side", type=int, default=1024, help="px of the encoded images")
    parser.add_argument("--side", type=int, default=256, help="px of the decoded ones")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the data goes; default: a temporary folder")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        ratios = {"rows": compare("rows", random_rows(asked.rows), our_rows, Path(folder), asked)}
        for name, as_ours in (("images", False), ("images, our decoding for all", True)):
            case = random_images(asked.images, asked.source_side, asked.side, as_ours)
            ratios[name] = compare(name, case, our_images, Path(folder), asked)
    for name, ratio in ratios.items():
        print(f"{name}: ours {ratio:.3f} times the fastest of the others")
    value = min(ratios["rows"], ratios["images"])
    print(json.dumps({"name": "loader", "value": round(value, 4), "goal": GOAL, "holds": value >= GOAL}))


if __name__ == "__main__":
    main()
