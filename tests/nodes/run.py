"""`python -m tests.nodes [FOLDER] [PART ...]`: every stage on a Ray cluster of three machines, and what faults cost.

Three network namespaces with addresses of their own, a Ray node in each, one shared folder. Ends in one JSON line: how many parts
failed or lost what they had acknowledged. Stops by itself; nothing is left running, nothing outside its namespaces is touched.
"""

import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pangu.storage import read_json, write_json
from tests.nodes import faults, work
from tests.nodes.machines import HEAD, Machines, wait_until
from tests.nodes.network import Network

NAMES = [HEAD, "one", "two"]
Part = Callable[[Machines], dict[str, Any]]
PARTS: dict[str, Part] = {
    "data": work.data_stages,
    "disturbed": faults.ingest_disturbed,
    "train": work.training_stage,
    "killed": faults.node_killed,
    "cut": lambda machines: faults.cable(machines, "cut", faults.BRIEF_S),
    "lost": lambda machines: faults.cable(machines, "lost", faults.LONG_S),
    "headless": faults.head_restarted,
    "served": faults.served,
}


def main(folder: Path, wanted: list[str]) -> int:
    """Run the parts; what earlier calls found in the same folder counts, too."""
    shutil.rmtree(folder / "ray", ignore_errors=True)
    machines = Machines(Network(NAMES), folder)
    work.adopt(machines)
    path = folder / "found.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    try:
        found["start"] = {"seconds": round(up(machines), 1)}
        for part in wanted:
            say(part)
            try:
                found[part] = PARTS[part](machines)
            except Exception as error:
                traceback.print_exc()
                found[part] = {"error": f"{type(error).__name__}: {error}"}
            say(json.dumps(found[part]))
            write_json(path, found)
            ready(machines)
    finally:
        machines.close()
    failed = [part for part in found if "error" in found[part]]
    line = {"name": "nodes", "value": len(failed), "goal": 0, "holds": not failed, "parts": len(found), "found": found}
    print(json.dumps(line), flush=True)
    return len(failed)


def up(machines: Machines) -> float:
    """Seconds until all machines are one cluster."""
    began = time.monotonic()
    if not (machines.folder / "pair").is_dir():
        from pangu.pipelines.assemble import save_pair, untrained_pair
        from pangu.recipes import tiny

        save_pair(untrained_pair(tiny(), 1), machines.folder / "pair")
    # One after the other: Ray gives a node thirty seconds to start, which three at once may not manage on a busy box.
    for count, name in enumerate(NAMES, start=1):
        machines.start(name)
        ready(machines, count)
    return time.monotonic() - began


def ready(machines: Machines, count: int = len(NAMES)) -> None:
    """Wait until so many machines are there."""
    import httpx

    head = machines.environment["RAY_API_SERVER_ADDRESS"]
    headers = {"Authorization": f"Bearer {(machines.folder / 'token').read_text()}"}

    def complete() -> bool:
        answer = httpx.get(f"{head}/nodes?view=summary", headers=headers, timeout=20).json()
        states = [one["raylet"].get("state") for one in answer["data"]["summary"]]
        return states.count("ALIVE") == count

    wait_until(f"{count} nodes", complete, 400)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or list(PARTS)))
