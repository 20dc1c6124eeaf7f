"""Images/s of a guarded ingest against bare img2dataset, on the same loopback origin, in alternating rounds of one run.

Both download the same table with the same processes and threads and keep the bytes as they come. Ours also checks every address,
bounds every body, and accounts for every row with its hash. Start-up counts for both.

    python benchmarks/ingest.py --images 2000 --rounds 3
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pangu.data.card import Card
from pangu.data.ingest.stage import ingest
from pangu.storage import Home

GOAL = 0.95
SIDE = 256
DISTINCT = 64
BARE = """
import json, sys
from img2dataset import download

if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--serve", action="store_true", help="Only the origin; prints its port")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as origin:
        assert origin.stdout is not None
        port = int(origin.stdout.readline())
        try:
            with tempfile.TemporaryDirectory() as folder:
                report(measure(arguments, Path(folder), port))
        finally:
            origin.kill()


def report(speeds: dict[str, list[float]]) -> None:
    for name, found in speeds.items():
        print(f"{name}: {', '.join(f'{speed:.1f}' for speed in found)} images/s")
    ratio = statistics.median(ours / bare for ours, bare in zip(speeds["ours"], speeds["bare"], strict=True))
    print(json.dumps({"name": "ingest", "value": round(ratio, 3), "goal": GOAL, "holds": ratio >= GOAL}))


def measure(arguments: argparse.Namespace, folder: Path, port: int) -> dict[str, list[float]]:
    """Images/s of both, one pair a round; which goes first changes from round to round."""
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(arguments.rounds):
        table = folder / f"urls-{number}.parquet"
        urls = [f"http://127.0.0.1:{port}/{number}-{index}.png" for index in range(arguments.images)]
        pq.write_table(pa.table({"url": urls, "caption": ["a picture"] * len(urls)}), table)
        order = ("ours", "bare") if number % 2 else ("bare", "ours")
        for name in order:
            run = ours if name == "ours" else bare
            started = time.monotonic()
            done = run(table, folder / f"{name}-{number}", arguments)
            assert done == arguments.images, f"{name} brought {done} of {arguments.images} images"
            speeds[name].append(done / (time.monotonic() - started))
    return speeds


def ours(table: Path, folder: Path, arguments: argparse.Namespace) -> int:
    limits = {
        "processes": arguments.processes,
        "threads": arguments.threads,
        "allow_private_hosts": ["127.0.0.1"],
        "retries": 0,
    }
    card = Card.model_validate(
        {
            "name": "speed", "source": str(table), "columns": {"caption_en": "caption"}, "licence": {"name": "-"},
            "limits": {**limits, "rows_per_shard": 500},
        }
    )  # fmt: skip
    return ingest(card, Home(folder)).ok


def bare(table: Path, folder: Path, arguments: argparse.Namespace) -> int:
    options = {
        "url_list": str(table), "input_format": "parquet", "output_folder": str(folder), "output_format": "parquet",
        "url_col": "url", "caption_col": "caption", "number_sample_per_shard": 500, "processes_count": arguments.processes,
        "thread_count": arguments.threads, "resize_mode": "no", "disable_all_reencoding": True, "extract_exif": False,
        "compute_hash": "sha256", "enable_wandb": False,
    }  # fmt: skip
    command = [sys.executable, "-c", BARE, json.dumps(options)]
    script = folder.with_suffix(".py")
    script.write_text(BARE)  # its workers are spawned, and import the main module from a file
    command = [sys.executable, str(script), json.dumps(options)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sum(json.loads(file.read_text())["successes"] for file in folder.glob("*_stats.json"))


def serve() -> None:
    rng = np.random.default_rng(0)
    bodies = []
    for _ in range(DISTINCT):
        sink = io.BytesIO()
        noise = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
        Image.fromarray(noise).resize((SIDE, SIDE)).save(sink, "PNG", compress_level=1)
        bodies.append(sink.getvalue())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[hash(self.path) % DISTINCT]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
