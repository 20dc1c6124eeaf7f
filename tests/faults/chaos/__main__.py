"""`python -m tests.faults.chaos`: a campaign of faults, a table, and one JSON line.

PANGU_CHAOS_FAULTS (100), PANGU_CHAOS_SEED (1) and PANGU_CHAOS_SECONDS (5400, for the faults alone) say how many, and
PANGU_CHAOS_ONLY which: the beginnings of their names, with commas between (`cancel,Prefect server`); by default all.
Without arguments it starts itself again, as `COUNT SEED SECONDS ONLY FOLDER`, on a machine of its own; where the system lets
nobody have one, it runs beside everybody else and fills no disk. Exit code 1 if an invariant was broken.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from pangu.stack import down
from pangu.stack.processes import marked
from pangu.stack.supervision import MARK
from pangu.storage import Home
from tests.faults.chaos.campaign import Campaign
from tests.faults.chaos.cancelling import cancels
from tests.faults.chaos.clock import CLOCK
from tests.faults.chaos.enclosure import enclosed, is_possible
from tests.faults.chaos.faults import FAULTS
from tests.faults.chaos.report import table, verdict
from tests.faults.chaos.work import Work

STEPS = 12
MEBIBYTES = 1500
ROOT = Path(__file__).parents[3]


def apart() -> int:
    """The campaign that the environment asks for, in a process of its own; its exit code."""
    asked = {"FAULTS": "100", "SEED": "1", "SECONDS": "5400", "ONLY": ""}
    chosen = [os.environ.get(f"PANGU_CHAOS_{name}", usual) for name, usual in asked.items()]
    with tempfile.TemporaryDirectory(prefix="pangu-chaos-") as folder:
        command = [sys.executable, "-m", "tests.faults.chaos", *chosen, folder]
        if is_possible(Path(folder)):
            command = enclosed(command, Path(folder), MEBIBYTES)
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def campaign(count: int, seed: int, seconds: float, only: str, folder: Path) -> int:
    """The campaign in this process; its exit code."""
    began = time.monotonic()
    gone_after: list[float] = []
    faults = (*FAULTS, CLOCK, *cancels(gone_after.append))
    chosen = [fault for fault in faults if fault.name.startswith(tuple(only.split(",")))]
    if not chosen:
        sys.exit(f"No fault's name begins with '{only}'; there are {', '.join(fault.name for fault in faults)}.")
    home, work = Home(folder / "home"), Work(folder, STEPS)

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {text}", file=sys.stderr, flush=True)

    try:
        done = Campaign(home, work, Random(seed), say, chosen)
        done.run(count, seconds)
    finally:
        down(home, say=say)
        work.close()
    done.orphans_after(marked(MARK, done.stack.stack_id))
    print(table(done, gone_after, time.monotonic() - began))
    line = verdict(done, gone_after)
    print(json.dumps(line))
    return 0 if line["holds"] else 1


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(apart())
    sys.exit(campaign(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], Path(sys.argv[5])))
