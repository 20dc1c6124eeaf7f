"""Memory of a whole stack: idle, and with a pair served. A table of processes, and one JSON line for each claim. Linux.

A stack of its own in a fresh home, looked at when all servers answer and have been left alone for a while; then a pair in the
shape of `demo` is deployed by the command of users, draws a few pictures, and is left alone again.

    python benchmarks/stack_memory.py [--settings FILE] [--rest 20]

What is counted is what these processes hold were they alone on the machine: pages that are theirs, or shared among them, by their
proportional share, and pages of a file once. The proportional share that the kernel tells (`pss_mb`) is smaller where others,
as an editor's Python, map the same libraries.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from pangu.stack import Stack, down, up
from pangu.stack.processes import marked
from pangu.stack.supervision import MARK
from pangu.storage import Home

GOALS_MB = {"stack_idle_mb": 1200, "stack_served_mb": 2500}
PICTURES = 4
NAMES = (
    (r"ServeReplica:\w+:(\w+)", r"Serve \1"),
    (r"ray::(\w+)", r"Ray \1"),
    (r"(gcs_server|raylet|supervisord|log_monitor|runtime_env)", r"\1"),
    (r"dashboard/(agent|dashboard)\.py", r"Ray \1"),
    (r"pangu\.stack\.(\w+)", r"\1"),
    (r"pangu\.console", "console"),
    (r"prefect (server|worker)", r"Prefect \1"),
)
"""What a command line holds, and what the table calls it; the first that fits."""
HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ (\d+) *(.*)$")
SIZE = re.compile(r"^(Rss|Pss|Pss_Anon|Anonymous):\s+(\d+) kB$")


@dataclass
class Held:
    """Memory of one process, KB. own: by share, without pages of files. files: (inode, offset) of a mapping -> resident."""

    name: str
    pss: int = 0
    own: int = 0
    files: dict[tuple[str, str], int] = field(default_factory=dict)


def held(process: psutil.Process) -> Held:
    """What the kernel says of a process's mappings.

    Raises:
        OSError, psutil.Error: it has ended, or is not ours.
    """
    found = Held(name_of(" ".join(process.cmdline()) or process.name()))
    place, sizes = ("0", "0"), dict[str, int]()

    def close() -> None:
        pss, resident = sizes.get("Pss", 0), sizes.get("Rss", 0)
        found.pss += pss
        if place[1] == "0" or not resident:
            found.own += pss
            return
        # Pages of a file that were written to are the process's own.
        written = min(sizes.get("Anonymous", 0), resident)
        found.own += round(pss * written / resident) if written == resident else written
        found.files[place] = found.files.get(place, 0) + resident - written

    for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
        if (size := SIZE.match(line)) is not None:
            sizes[size[1]] = int(size[2])
        elif (head := HEAD.match(line)) is not None:
            close()
            place, sizes = (head[1], head[2]), {}
    close()
    return found


def name_of(command: str) -> str:
    for pattern, name in NAMES:
        if (match := re.search(pattern, command)) is not None:
            return match.expand(name)
    return " ".join(Path(word).name for word in command.split()[:3])


def all_held(stack: Stack) -> list[Held]:
    """Of every process of the stack."""
    assert stack.supervisor is not None
    found = {process.pid: process for process in marked(MARK, stack.stack_id)}
    root = psutil.Process(stack.supervisor.pid)
    for process in (root, *root.children(recursive=True)):
        found[process.pid] = process
    return [each for process in found.values() for each in _held_or_gone(process)]


def _held_or_gone(process: psutil.Process) -> Iterator[Held]:
    try:
        yield held(process)
    except (OSError, psutil.Error):
        return


def report(name: str, processes: list[Held], goal: float) -> None:
    """The table of one moment, and its claim."""
    largest: dict[tuple[str, str], int] = {}
    for each in processes:
        for place, size in each.files.items():
            largest[place] = max(largest.get(place, 0), size)
    sharers: dict[tuple[str, str], list[Held]] = {}
    for each in processes:
        for place in each.files:
            sharers.setdefault(place, []).append(each)
    shares = {
        id(each): each.own + sum(largest[place] / len(sharers[place]) for place in each.files) for each in processes
    }
    print(f"{name}: {len(processes)} processes, MB")
    for label, group in grouped(sorted(processes, key=lambda each: -shares[id(each)])):
        print(f"  {sum(shares[id(each)] for each in group) / 1000:7.0f}  {label} x {len(group)}")
    total = (sum(each.own for each in processes) + sum(largest.values())) / 1000
    files, pss = sum(largest.values()) / 1000, sum(each.pss for each in processes) / 1000
    facts = {"files_mb": round(files), "pss_mb": round(pss), "processes": len(processes)}
    print(json.dumps({"name": name, "value": round(total), "goal": goal, "holds": total <= goal, **facts}), flush=True)


def grouped(processes: Iterable[Held]) -> list[tuple[str, list[Held]]]:
    found: dict[str, list[Held]] = {}
    for each in processes:
        found.setdefault(each.name, []).append(each)
    return list(found.items())


def serve(stack: Stack, scratch: Path, settings: Path | None) -> None:
    """Register and deploy a pair by processes of their own, so that nothing of torch is here, and draw."""
    environment = {**os.environ, **stack.environment()}
    code = "import sys, pathlib, benchmarks.serve_releases as b; b.register(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(scratch)], env=environment, check=True, timeout=400)
    result = scratch / "deploy.json"
    command = [sys.executable, "-m", "pangu", "deploy", "--pair-version", "1", "--result", str(result)]
    clock = time.perf_counter()
    more = ["--settings", str(settings)] if settings else []
    subprocess.run([*command, *more], env=environment, check=True, timeout=400, stdout=subprocess.DEVNULL)
    print(f"deployed within {time.perf_counter() - clock:.1f} s", flush=True)
    url = json.loads(result.read_bytes())["url"]
    for number in range(PICTURES):
        body = {"prompt": f"a red apple, number {number}", "n": 2}
        httpx.post(f"{url}/v1/images/generations", json=body, timeout=300).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, help="ServeSettings as JSON; default: those that nobody changed")
    parser.add_argument("--idle", action="store_true", help="deploy nothing")
    parser.add_argument("--rest", type=float, default=20.0, help="seconds that the stack is left alone before a look")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch) / "home")
        clock = time.perf_counter()
        stack = up(home, customary_ports=False)
        try:
            print(f"up within {time.perf_counter() - clock:.1f} s", flush=True)
            time.sleep(asked.rest)
            report("stack_idle_mb", all_held(stack), GOALS_MB["stack_idle_mb"])
            if asked.idle:
                return
            serve(stack, Path(scratch), asked.settings)
            time.sleep(asked.rest)
            report("stack_served_mb", all_held(stack), GOALS_MB["stack_served_mb"])
        finally:
            down(home)


if __name__ == "__main__":
    main()
