"""A URL table of 20,000 rows through ingest, prepare and encode on one machine: seconds, memory, bytes and reasons of each stage.

The origin, a process of its own on loopback, serves every OpenMoji drawing in five variants of colour, half of them too small for
the texture generator, and the broken URLs of `pangu.data.example.origin`; one row in thirty is dead, hostile or refused. Each
stage is the command that anybody runs; then ingest and prepare run again and must add nothing.

    python benchmarks/whole_way.py --rows 20000 --workers 2
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from pangu.data.example import openmoji
from pangu.data.example.origin import BROKEN, LARGE_SIDE, SMALL_SIDE, Origin
from pangu.data.images import decode_rgb, encode_png
from pangu.data.table.delta import read_rows
from pangu.storage import Home

POLL_S = 0.5
COLOURS = list(itertools.permutations(range(3)))
"""Orders of the colour channels: a variant each."""
BROKEN_EACH, DEAD, REFUSED = 0.002, 0.01, 0.005
"""Shares of all rows: each kind of broken URL, drawings that are gone, private addresses and schemes other than http."""
NAME = "whole-way"


class Variants(Origin):
    """Serves `/VARIANT/INDEX.png` beside what every origin does."""

    def __init__(self) -> None:
        super().__init__(None)
        self._whole: dict[int, np.ndarray] = {}

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path).path.strip("/").removesuffix(".png").split("/")
        if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]) < len(self._drawings):
            self._send_variant(request, *map(int, parts))
        else:
            super()._answer(request)

    def _send_variant(self, request: BaseHTTPRequestHandler, variant: int, index: int) -> None:
        if index not in self._whole:
            png = openmoji.render_png(self._drawings[index], LARGE_SIDE)
            self._whole[index] = decode_rgb(png).image_hwc
        image_hwc = self._whole[index][:, :, COLOURS[variant]]
        if (variant + index) % 2:
            image_hwc = np.asarray(Image.fromarray(image_hwc).resize((SMALL_SIDE, SMALL_SIDE)))
        data = encode_png(image_hwc)
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="Only the origin; prints its port")
    arguments = parser.parse_args()
    if arguments.serve:
        origin = Variants()
        origin.start()
        print(origin.port, flush=True)
        threading.Event().wait()
    command = [sys.executable, __file__, "--serve"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            card = write_card(Path(folder), f"http://127.0.0.1:{int(server.stdout.readline())}", arguments.rows)
            measure(card, Path(folder) / "home", arguments)
        finally:
            server.kill()


def write_card(folder: Path, url: str, rows: int) -> Path:
    """The table of URLs, and the card that names it."""
    schema = pa.schema([(name, pa.string()) for name in ("url", "caption_en", "caption_zh")])
    pq.write_table(pa.Table.from_pylist(list(table(url, rows)), schema=schema), folder / "urls.parquet")
    limits = {"max_seconds": 4, "retries": 0, "processes": 2, "threads": 16, "allow_private_hosts": ["127.0.0.1"]}
    card = {
        "name": NAME, "source": "urls.parquet", "licence": {"name": openmoji.licence()},
        "columns": {"caption_en": "caption_en", "caption_zh": "caption_zh"}, "texture_min_side": 64,
        "upscale": {"target_side": 96, "upscaler": "spanx2"}, "limits": {**limits, "max_pixels": 4_000_000},
        "filters": {"near_duplicates": {"max_bits": 2, "max_colour": 6}},
    }  # fmt: skip
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


def table(url: str, rows: int) -> Iterator[dict[str, Any]]:
    """Rows in an order that mixes all kinds, the same every time."""
    drawings = openmoji.every_drawing()
    bad = [f"{url}/broken/{kind}?{n}" for kind in BROKEN for n in range(round(rows * BROKEN_EACH))]
    bad += [f"{url}/gone/{n}.png" for n in range(round(rows * DEAD))]
    bad += [f"http://10.{n % 256}.{n // 256}.1/x.png" for n in range(round(rows * REFUSED))]
    bad += [f"ftp://example.org/{n}.png" for n in range(round(rows * REFUSED))]
    listed = [(address, "a bad link", "坏链接") for address in bad]
    for number in range(rows - len(bad)):
        variant, index = divmod(number, len(drawings))
        one = drawings[index]
        listed.append((f"{url}/{variant}/{index}.png", f"{one.caption_en}, variant {variant}", one.caption_zh))
    for at in np.random.default_rng(0).permutation(rows):
        yield dict(zip(("url", "caption_en", "caption_zh"), listed[at], strict=True))


def measure(card: Path, root: Path, arguments: argparse.Namespace) -> None:
    """Run the stages, print what each took, and count the rows that nobody can account for."""
    home, seconds = Home(root), {}
    ingested = stage("ingest", [str(card)], root, seconds)
    prepare = [str(card), "--ingest-id", ingested["ingest_id"], "--workers", str(arguments.workers)]
    prepared = stage("prepare", prepare, root, seconds)
    version = str(prepared["version"])
    encoded = stage("encode", [str(card), "--version", version, "--recipe", "demo"], root, seconds)
    again = [stage("ingest", [str(card)], root, {}), stage("prepare", prepare, root, {})]
    keys = Counter(read_rows(home, NAME, prepared["version"], columns=["key"])["key"].to_pylist())
    accounted = ingested["ok"] + sum(ingested["failed"].values())
    odd = {
        "ingest": abs(ingested["listed"] - arguments.rows) + abs(arguments.rows - accounted),
        "prepare": abs(ingested["ok"] - prepared["rows"] - sum(prepared["dropped"].values())),
        "table": abs(len(keys) - prepared["rows"]) + sum(count - 1 for count in keys.values()),
        "encode": abs(encoded["rows"]["structure"] - (prepared["rows"] - prepared["held_out"])),
        "again": sum(not outcome["already_done"] for outcome in again),
    }  # fmt: skip
    print(f"ok {ingested['ok']}, failed {ingested['failed']}")
    print(
        f"rows {prepared['rows']} ({prepared['upscaled']} upscaled), version {version}, dropped {prepared['dropped']}"
    )
    for path in ("raw", "table", "encoded"):
        print(
            f"{path}: {sum(f.stat().st_size for f in home.dataset(NAME).glob(f'{path}/**/*') if f.is_file()):,} bytes"
        )
    value = sum(odd.values())
    facts = {"rows": arguments.rows, "workers": arguments.workers, "stages": seconds, "odd": odd}
    print(json.dumps({"name": "whole_way", "value": value, "goal": 0, "holds": value == 0, **facts}))


def stage(name: str, words: list[str], root: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Run one command; seconds, CPU seconds and the largest memory of its processes together go to `found`."""
    result = root.with_name("result.json")
    command = [sys.executable, "-m", "pangu", name, *words, "--result", str(result)]
    started, peak = time.monotonic(), 0.0
    cpu: dict[int, float] = {}
    with result.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PANGU_HOME": str(root)})
        while process.poll() is None:
            peak = max(peak, look(process.pid, cpu))
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}: {result.with_suffix('.log').read_text()[-2000:]}")
    found[name] = {"s": round(time.monotonic() - started), "cpu_s": round(sum(cpu.values())), "peak_mb": round(peak)}
    outcome = json.loads(result.read_text())
    print(f"{name}: {found[name]}", flush=True)
    return outcome


def look(pid: int, cpu: dict[int, float]) -> float:
    """Resident MiB of a process and all below it, what they share counted for each; notes the CPU seconds of each in `cpu`.

    What a process does between the last look at it and its end is not counted, nor one that lives for less than `POLL_S`.
    """
    resident = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system
                resident += process.memory_info().rss
    return resident / 2**20


if __name__ == "__main__":
    main()
