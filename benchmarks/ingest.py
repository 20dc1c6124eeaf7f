"""Images/s and images per core-second of a guarded ingest beside bare img2dataset, on one loopback origin, in turns of one run.

Both download the same table with the same processes and threads and keep the bytes as they come. Ours also checks every address,
bounds every body, and accounts for every row with its hash. Each side is a command of its own: start-up counts for both, and
20,000 images make little of it. The origin is several processes that answer from memory; its processor time is told, and counts
for neither. Images per core-second hardly depend on what else the machine does, images/s do. img2dataset starts a worker anew
after five shards, and bare imports everything each time; `--shard 5000` makes so few shards that no worker is.

    python benchmarks/ingest.py --images 20000 --rounds 2
"""

import argparse
import asyncio
import ctypes
import io
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from in_child import in_child
from PIL import Image

GOAL = 0.95
SIDE = 256
DISTINCT = 64
CHILD_SUBREAPER = 36
"""prctl(2): processes whose parent has ended become this one's children, and are waited for."""
SIDES = ("bare", "ours")


@dataclass(frozen=True)
class Asked:
    """What both sides are asked for."""

    table: str
    folder: str
    shard: int
    processes: int
    threads: int


@dataclass(frozen=True)
class Turn:
    """What one side took for its images: by the clock, and of all its processes, s."""

    images: int
    seconds: float
    core_seconds: float

    @property
    def speed(self) -> float:
        return self.images / self.seconds

    @property
    def yielded(self) -> float:
        """Images per core-second."""
        return self.images / self.core_seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shard", type=int, default=1000, help="Rows of a shard; 1,000 is a card's default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--origins", type=int, default=2, help="Processes of the origin")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        side, asked = arguments.one[0], Asked(**json.loads(arguments.one[1]))
        print((ours if side == "ours" else bare)(asked))
        return
    with origin(arguments.origins) as (port, pids), tempfile.TemporaryDirectory() as folder:
        turns = measure(arguments, Path(folder), port)
        report(turns, arguments, sum(map(core_seconds_of, pids)))


def report(turns: dict[str, list[Turn]], arguments: argparse.Namespace, origin_s: float) -> None:
    for side, found in turns.items():
        told = (f"{turn.speed:.1f} images/s, {turn.yielded:.1f} images per core-second" for turn in found)
        print(f"{side}: {'; '.join(told)}")
    pairs = list(zip(turns["ours"], turns["bare"], strict=True))
    clock = statistics.median(ours.speed / bare.speed for ours, bare in pairs)
    cores = statistics.median(ours.yielded / bare.yielded for ours, bare in pairs)
    facts = {"images": arguments.images, "shard": arguments.shard, "per_core_second": round(cores, 3)}
    for name, of in (("images_per_core_second", "yielded"), ("images_per_s", "speed"), ("core_s", "core_seconds")):
        facts[name] = {side: [round(getattr(turn, of), 1) for turn in found] for side, found in turns.items()}
    facts |= {"origin_core_s": round(origin_s, 1), "load": round(os.getloadavg()[0], 1)}
    holds = min(clock, cores) >= GOAL
    print(json.dumps({"name": "ingest", "value": round(clock, 3), "goal": GOAL, "holds": holds, **facts}))


def measure(arguments: argparse.Namespace, folder: Path, port: int) -> dict[str, list[Turn]]:
    """Both, one pair a round; which goes first changes from round to round."""
    turns: dict[str, list[Turn]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        table = folder / f"urls-{number}.parquet"
        urls = [f"http://127.0.0.1:{port}/{number}-{index}.png" for index in range(arguments.images)]
        pq.write_table(pa.table({"url": urls, "caption": ["a picture"] * len(urls)}), table)
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            place = folder / f"{side}-{number}"
            asked = {"table": str(table), "folder": str(place), "shard": arguments.shard}
            asked |= {"processes": arguments.processes, "threads": arguments.threads}
            turn = Turn(**in_child(lambda: timed([sys.executable, __file__, "--one", side, json.dumps(asked)])))  # noqa: B023
            assert turn.images == arguments.images, f"{side} brought {turn.images} of {arguments.images} images"
            turns[side].append(turn)
            print(f"{side}: {turn.speed:.1f} images/s, {turn.yielded:.1f} a core-second", file=sys.stderr, flush=True)
    return turns


def timed(command: list[str]) -> dict[str, float]:
    """What a command brought, and what it took with all its processes, those that outlive it included."""
    ctypes.CDLL(None, use_errno=True).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = time.monotonic() - started
    try:
        while os.wait():
            pass
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    images = int(done.stdout.splitlines()[-1])
    return {"images": images, "seconds": seconds, "core_seconds": used.ru_utime + used.ru_stime}


def ours(asked: Asked) -> int:
    from pangu.data.card import Card
    from pangu.data.ingest.stage import ingest
    from pangu.storage import Home

    limits = {
        "processes": asked.processes,
        "threads": asked.threads,
        "allow_private_hosts": ["127.0.0.1"],
        "retries": 0,
    }
    card = Card.model_validate(
        {
            "name": "speed", "source": asked.table, "columns": {"caption_en": "caption"}, "licence": {"name": "-"},
            "limits": {**limits, "rows_per_shard": asked.shard},
        }
    )  # fmt: skip
    return ingest(card, Home(Path(asked.folder))).ok


def bare(asked: Asked) -> int:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset import download

    download(
        url_list=asked.table, input_format="parquet", output_folder=asked.folder, output_format="parquet",
        url_col="url", caption_col="caption", number_sample_per_shard=asked.shard, processes_count=asked.processes,
        thread_count=asked.threads, resize_mode="no", disable_all_reencoding=True, extract_exif=False,
        compute_hash="sha256", enable_wandb=False,
    )  # fmt: skip
    return sum(json.loads(file.read_text())["successes"] for file in Path(asked.folder).glob("*_stats.json"))


# The origin: processes that listen at one port and answer from memory.


@contextmanager
def origin(processes: int) -> Iterator[tuple[int, list[int]]]:
    """The port, and the processes."""
    sockets = [listening(0)]
    port = sockets[0].getsockname()[1]
    sockets += [listening(port) for _ in range(processes - 1)]
    pids = []
    for mine in sockets:
        if (pid := os.fork()) == 0:
            for other in sockets:
                if other is not mine:
                    other.close()
            asyncio.run(serve(mine))
        pids.append(pid)
    for mine in sockets:
        mine.close()
    try:
        yield port, pids
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def listening(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(512)
    return made


def core_seconds_of(pid: int) -> float:
    """What a process has taken so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def serve(mine: socket.socket) -> None:
    rng, answers = np.random.default_rng(0), list[bytes]()
    for _ in range(DISTINCT):
        sink = io.BytesIO()
        noise = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
        Image.fromarray(noise).resize((SIDE, SIDE)).save(sink, "PNG", compress_level=1)
        body = sink.getvalue()
        answers.append(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport, self.heard = transport, b""

        def data_received(self, data: bytes) -> None:
            self.heard += data
            if b"\r\n\r\n" in self.heard:
                self.transport.write(answers[zlib.crc32(self.heard.split(b" ", 2)[1]) % DISTINCT])
                self.transport.close()

    server = await asyncio.get_running_loop().create_server(Answer, sock=mine)
    await server.serve_forever()


if __name__ == "__main__":
    main()
