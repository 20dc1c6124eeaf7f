"""What the cluster is given to do: every stage as the Ray Job that a flow starts, tried again after a failure as a flow does."""

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from pangu import jobs
from pangu.data.card import load_card
from pangu.data.example.origin import Origin
from pangu.progress import silent
from pangu.recipes import tiny
from pangu.storage import Home, write_json
from pangu.train.attempts import ATTEMPT_FILE
from pangu.train.checkpoint import latest_checkpoint
from pangu.train.history import HISTORY_FILE, Line, read_history
from tests.nodes.machines import Machines, wait_until
from tests.nodes.network import HUB

DRAWINGS = 96
STAGE_STEPS, ENDLESS_STEPS = 60, 100_000
CHECKPOINT_EVERY = 10
RETRY_DELAYS_S = (0.0, 5.0, 30.0)
"""As flows/stages.py tries a stage again."""
PATIENCE_S = 400.0


def command(machines: Machines, job_id: str, *arguments: str) -> Any:
    """The outcome of a `pangu` command as a Ray Job; tried again as a flow would.

    Raises:
        CommandStopped: it was meant to end.
    """
    result = machines.folder / "results" / f"{job_id}.json"
    result.parent.mkdir(exist_ok=True)
    log = machines.folder / "logs" / f"{job_id}.log"
    error: Exception | None = None
    for delay in RETRY_DELAYS_S:
        time.sleep(delay)
        try:
            with log.open("a") as sink:
                return jobs.run_as_job(
                    arguments, job_id, result, silent, lambda line: print(line, file=sink, flush=True)
                )
        except jobs.CommandStopped:
            raise
        except Exception as failure:
            error = failure
            with log.open("a") as sink:
                print(f"attempt failed: {failure!r}", file=sink)
    assert error is not None
    raise error


def write_card(machines: Machines, name: str = "nodes") -> str:
    """A card over the origin in this process: the demo's, for a network of its own; shards of a dozen rows."""
    card = load_card("openmoji").model_dump(mode="json", exclude_defaults=True)
    card["name"], card["source"] = name, str(machines.folder / f"{name}.parquet")
    card["limits"] |= {"allow_private_hosts": [HUB], "rows_per_shard": 12, "processes": 1, "max_seconds": 15}
    card["upscale"] |= {"min_timestep": 300, "upscaler": "spanx2"}
    path = machines.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card))
    return str(path)


def write_recipe(folder: Path, steps: int) -> str:
    """The tiny recipe on two workers, or on one while there is room for no more."""
    recipe = tiny()
    recipe = recipe.model_copy(
        update={
            "jobs": {
                role: job.model_copy(update={"steps": steps, "batch_size": 16}) for role, job in recipe.jobs.items()
            },
            "optimization": recipe.optimization.model_copy(
                update={"checkpoint_every": CHECKPOINT_EVERY, "log_every": 1}
            ),
            "workers": 2,
            "min_workers": 1,
        }
    )
    path = folder / f"recipe-{steps}.json"
    write_json(path, recipe.model_dump(mode="json"))
    return str(path)


def data_stages(machines: Machines) -> dict[str, Any]:
    """Ingest, prepare and encode across the cluster, and where each of them ran."""
    home, card = Home(machines.folder / "home"), write_card(machines)
    origin, found = Origin(DRAWINGS, host=HUB), dict[str, Any]()
    origin.start()
    try:
        origin.write_table(machines.folder / "nodes.parquet")
        ingest, found["ingest"] = stage(machines, "ingest", "ingest", card, "--on-ray")
    finally:
        origin.close()
    assert ingest["listed"] == ingest["ok"] + sum(ingest["failed"].values()) == len(origin.rows())
    found["ingest"] |= {"listed": ingest["listed"], "ok": ingest["ok"], "failed": ingest["failed"]}
    arguments = (card, "--ingest-id", ingest["ingest_id"], "--on-ray", "--workers", "2")
    prepare, found["prepare"] = stage(machines, "prepare", "prepare", *arguments)
    assert ingest["ok"] == prepare["rows"] + sum(prepare["dropped"].values())
    found["prepare"] |= {"rows": prepare["rows"], "dropped": prepare["dropped"]}
    recipe = write_recipe(machines.folder, STAGE_STEPS)
    encode, found["encode"] = stage(
        machines, "encode", "encode", card, "--version", str(prepare["version"]), "--recipe", recipe
    )
    write_json(home.root / "encode_id.json", encode["encode_id"])
    return found


def training_stage(machines: Machines) -> dict[str, Any]:
    """Two workers on two machines train to the end."""
    arguments = train_arguments(machines, STAGE_STEPS, f"whole-{time.time_ns():x}")
    outcome, found = stage(machines, "train", *arguments)
    assert outcome["steps"] == STAGE_STEPS
    return {"train": found | {"steps": outcome["steps"], "loss": round(outcome["loss"], 4)}}


def stage(machines: Machines, name: str, *arguments: str) -> tuple[Any, dict[str, Any]]:
    """A stage's outcome, and how long it took and what was seen of it on each machine."""
    for seen in machines.seen.values():
        seen.clear()
    began = time.monotonic()
    outcome = command(machines, f"{name}-{time.time_ns():x}", *arguments)
    where = {machine: sorted(seen) for machine, seen in machines.seen.items() if seen}
    return outcome, {"seconds": round(time.monotonic() - began, 1), "where": where}


def train_arguments(machines: Machines, steps: int, run_name: str) -> tuple[str, ...]:
    from pangu.storage import read_json

    encode_id = read_json(machines.folder / "home" / "encode_id.json")
    recipe = write_recipe(machines.folder, steps)
    card = str(machines.folder / "nodes.yaml")
    return ("train", card, "--encode-id", encode_id, "--recipe", recipe, "--role", "structure", "--run-name", run_name)


class Training:
    """An endless training in the background; `stop` it when enough was seen."""

    def __init__(self, machines: Machines, name: str) -> None:
        self.machines, self.name = machines, f"{name}-{time.time_ns():x}"
        self.folder = Home(machines.folder / "home").run(self.name)
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            command(self.machines, self.name, *train_arguments(self.machines, ENDLESS_STEPS, self.name))
        except jobs.CommandStopped:
            pass
        except Exception as error:
            self.error = error

    @property
    def lines(self) -> list[Line]:
        return read_history(self.folder / HISTORY_FILE)

    @property
    def step(self) -> int:
        lines = self.lines
        return lines[-1].step if lines else 0

    @property
    def checkpoint(self) -> int:
        """The step that another attempt would go on from."""
        found = latest_checkpoint(self.folder / "checkpoints")
        return found[1].step if found else 0

    @property
    def group(self) -> str:
        """The id of the workers that have the run folder now; empty while an attempt has none yet."""
        try:
            owner = (self.folder / ATTEMPT_FILE).read_text()
        except FileNotFoundError:
            return ""
        return owner if "/" in owner else ""

    @property
    def written_at_once(self) -> int:
        """How often a line follows one of a later step without a checkpoint before it: somebody else was writing, too."""
        steps = [json.loads(line)["step"] for line in (self.folder / HISTORY_FILE).read_text().splitlines()]
        return sum(right <= left and (right - 1) % CHECKPOINT_EVERY for left, right in pairwise(steps))

    def wait_for(self, step: int, patience_s: float = PATIENCE_S) -> None:
        wait_until(f"{self.name} at step {step}", lambda: self.error is not None or self.step >= step, patience_s)
        if self.error is not None:
            raise RuntimeError(f"{self.name} ended: {self.error!r}")

    def stop(self) -> None:
        jobs.stop_all(self.name)
        self._thread.join(60)


def longest_silence(lines: list[Line], since_ms: int) -> float:
    """Most seconds between two steps that were seen for the first time, from the last one before `since_ms` on."""
    times = [line.time_ms for line in lines]
    before = [time_ms for time_ms in times if time_ms <= since_ms]
    later = [*before[-1:], *[time_ms for time_ms in times if time_ms > since_ms]]
    return max((right - left for left, right in pairwise(later)), default=0) / 1000


def processes_of(machines: Machines, machine: str) -> int:
    return len(machines.network.processes(machine))


def adopt(machines: Machines) -> None:
    """From here on this process finds the cluster by its environment, as a flow's does; before anything imports Ray."""
    os.environ.update(machines.environment)
