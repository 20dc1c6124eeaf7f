"""What must hold whatever happened: nothing acknowledged is lost, nothing is there twice, nobody is left over.

A stage acknowledges its work by its outcome file in `flows/RUN/`; what such a file promised is looked for from then on.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from pangu import jobs
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.table.delta import read_rows
from pangu.data.table.versions import log
from pangu.errors import UserError
from pangu.registry.tracking import CONTENT, PAIR, STRUCTURE, TEXTURE
from pangu.stack import Stack
from pangu.stack.flow_runs import UNDER_WAY
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import family, marked
from pangu.stack.supervision import MARK
from pangu.storage import Home, read_json
from tests.faults.chaos.work import NAME

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Prefect gives it to the process of a flow run, and that to everything it starts."""


class Oracle:
    """Remembers every acknowledgement that it has seen, and what the thing looked like then."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: dict[tuple[str, str], str] = {}
        self._lost: set[tuple[str, str]] = set()

    @property
    def acknowledged(self) -> int:
        return len(self._seen)

    def look(self, stack: Stack, runs: Iterable[str]) -> dict[str, list[str]]:
        """Complaints about data, by kind, after these flow runs; call it while MLflow answers."""
        for path in [path for run in runs for path in (self._home.root / "flows" / run).glob("*.json")]:
            if path.stem != "recipe":
                self._note(path, stack)
        for key, before in self._seen.items():
            if fingerprint(self._home, stack, *key) != before:
                self._lost.add(key)
        return {
            "acknowledged work lost": [f"{stage} {what}" for stage, what in sorted(self._lost)],
            "duplicate rows or versions": [*double_rows(self._home), *double_versions(stack)],
        }

    def _note(self, path: Path, stack: Stack) -> None:
        outcome = read_json(path)
        for key in promises(path.stem, outcome):
            if key not in self._seen:
                self._seen[key] = fingerprint(self._home, stack, *key) or "missing from the start"


def promises(stage: str, outcome: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The things that an outcome says are there from now on, as (kind, name)."""
    if stage == "ingest":
        yield "raw", outcome["ingest_id"]
    elif stage == "prepare":
        yield "version", str(outcome["version"])
    elif stage == "encode":
        yield "encoded", outcome["encode_id"]
    elif stage.startswith("train-"):
        yield "generator", outcome["run_name"]
    elif stage == "evaluate":
        yield "pair", outcome["pair_id"]
    elif stage == "release":
        yield from ((model, str(outcome[f"{model.removeprefix('pangu-')}_version"])) for model in MODELS)


MODELS = (STRUCTURE, TEXTURE, PAIR)


def fingerprint(home: Home, stack: Stack, kind: str, name: str) -> str | None:
    """What identifies the content of a promised thing; None if it is not there or not whole."""
    readers: dict[str, Callable[[], str]] = {
        "raw": lambda: (home.raw(NAME, name) / "outcome.json").read_text(),
        "version": lambda: rows_digest(home, int(name)),
        "encoded": lambda: str(EncodedManifest.load(home.encoded(NAME, name)).rows),
        "generator": lambda: file_digest(
            home.run(name) / "generator" / "diffusion_pytorch_model.safetensors", home.run(name) / "outcome.json"
        ),
        "pair": lambda: file_digest(home.pair(name) / "model_index.json"),
    }
    read = readers.get(kind, lambda: registered(stack, kind).get(name, ""))
    try:
        return read() or None
    except (OSError, UserError, ValueError):
        return None


def rows_digest(home: Home, version: int) -> str:
    rows = read_rows(home, NAME, version, columns=["key", "caption_en", "upscaled", "split"]).to_pylist()
    return hashlib.sha256(json.dumps(sorted(map(str, rows))).encode()).hexdigest()


def file_digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def registered(stack: Stack, model: str) -> dict[str, str]:
    """Content hash by version of a registered model."""
    url = f"{stack.mlflow_url}/api/2.0/mlflow/model-versions/search"
    asked = {"filter": f"name = '{model}'", "max_results": 1000}
    found = httpx.get(url, params=asked, timeout=30, trust_env=False).raise_for_status().json()
    tags = {one["version"]: {tag["key"]: tag["value"] for tag in one.get("tags", [])} for one in versions_in(found)}
    return {version: tags_of.get(CONTENT, "") for version, tags_of in tags.items()}


def versions_in(found: dict[str, Any]) -> list[dict[str, Any]]:
    return list(found.get("model_versions", []))


def double_rows(home: Home) -> list[str]:
    """Rows that a version holds twice, and versions that were committed twice."""
    try:
        entries = log(home, NAME)
    except UserError:
        return []
    complaints = [f"two versions of {key}" for key, times in Counter(e.key for e in entries).items() if times > 1]
    for entry in entries:
        keys = read_rows(home, NAME, entry.version, columns=["key"])["key"].to_pylist()
        complaints += [f"row {key[:12]} twice in version {entry.version}" for key in twice(keys)]
    return complaints


def double_versions(stack: Stack) -> list[str]:
    """Registered versions with one content."""
    return [f"{model}: {sha[:12]} twice" for model in MODELS for sha in twice(registered(stack, model).values())]


def twice(values: Any) -> list[str]:
    return [value for value, times in Counter(values).items() if times > 1]


def runs_under_way(stack: Stack) -> set[str]:
    """Ids of the flow runs that Prefect takes for alive."""
    asked = {"flow_runs": {"state": {"type": {"any_": list(UNDER_WAY)}}}}
    with prefect_api(stack) as api:
        return {run["id"] for run in api.post("/flow_runs/filter", json=asked).raise_for_status().json()}


def left_over(stack: Stack) -> list[str]:
    """Processes, jobs and slots that belong to no flow run under way."""
    living = runs_under_way(stack)
    complaints = [f"process {p.pid} of nobody: {' '.join(p.cmdline())[:80]}" for p in strangers(stack, living)]
    with prefect_api(stack) as api:
        limits = api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json()
    slots = sum(limit["active_slots"] for limit in limits)
    if slots > len(living):
        complaints.append(f"{slots} slots are held by {len(living)} runs under way")
    complaints += [f"job {job} of a run that is over" for job in living_jobs(stack) if job[:36] not in living]
    return complaints


def living_jobs(stack: Stack) -> list[str]:
    """Submission ids of the jobs that Ray has not ended."""
    return jobs.living(stack.ray_dashboard_url, {"Authorization": f"Bearer {stack.token}"})


def strangers(stack: Stack, living: set[str]) -> list[psutil.Process]:
    """Processes of the stack that belong to a flow run which is over, or to no run and not to the supervisor either."""
    supervisor = stack.supervisor.find() if stack.supervisor else None
    servers = {process.pid for process in (family(supervisor) if supervisor else [])}
    found = []
    for process in marked(MARK, stack.stack_id):
        with contextlib.suppress(psutil.Error):
            owner = owner_of(process)
            if (owner not in living) if owner else (process.pid not in servers):
                found.append(process)
    return found


def owner_of(process: psutil.Process) -> str:
    """The flow run that the process works for; empty for servers, and for Ray's processes."""
    environment = process.environ()
    return environment.get(FLOW_RUN) or environment.get(jobs.MARK, "")[:36]


def processes_of(run_id: str) -> list[psutil.Process]:
    """Everything that a flow run started on this machine, Ray's processes apart."""
    return [*marked(FLOW_RUN, run_id), *marked(jobs.MARK, run_id, prefix=True)]
