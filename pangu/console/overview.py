"""What runs, in one look: parts of the stack, the release that is served, flow runs, datasets, disk. Changes nothing.

Each part is asked beside the others and none is waited for long; what does not answer is shown as not answering.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from pangu.names import Named, runs
from pangu.stack.certificates import trusted
from pangu.stack.health import parts
from pangu.stack.model import Stack
from pangu.storage import Home

TIMEOUT_S = 5.0
UNDER_WAY = ("RUNNING", "PENDING", "PAUSED", "CANCELLING", "SCHEDULED")
SHOWN_RUNS = 8
PAIR = "pangu-pair"
PICTURES = "samples.png"
"""Artefact of a release's run: what it drew when it was evaluated."""
PICTURE_BYTES = 32 * 2**20
ROUNDED = 10**8
Found = TypeVar("Found")


def overview(home: Home) -> dict[str, Any]:
    """Everything that the first page shows, as JSON; without a stack, what lies in the home."""
    stack = Stack.load(home)
    running = stack if stack is not None and stack.is_running else None
    with ThreadPoolExecutor(4) as pool:
        asked: dict[str, Any] = {
            "datasets": pool.submit(dataset_names, home),
            "trainings": pool.submit(newest_runs, home),
        }
        if running is not None:
            asked |= {
                "parts": pool.submit(_parts, running),
                "release": pool.submit(_or_none, lambda: release(running)),
                "served": pool.submit(_or_none, lambda: served(running)),
                "flows": pool.submit(_or_none, lambda: flow_runs(running)),
            }
        found = {name: future.result() for name, future in asked.items()}
    return {
        "stack": None if running is None else _doors(running),
        "home": str(home.root),
        "disk": disk(home.root),
        **found,
    }


def _doors(stack: Stack) -> dict[str, str]:
    return {
        "prefect": stack.prefect_url,
        "mlflow": stack.mlflow_url,
        "ray": stack.ray_dashboard_url,
        "studio": f"{stack.serve_url}/studio",
        "api": f"{stack.serve_url}/docs",
    }


def _parts(stack: Stack) -> list[dict[str, Any]]:
    """Every part but these pages themselves."""
    shown = [part for part in parts(stack) if part.program != "console"]
    with ThreadPoolExecutor(len(shown)) as pool:
        answers = pool.map(lambda part: part.check(stack), shown)
        return [
            {"name": part.name, "address": part.address, "answers": there, "optional": part.optional}
            for part, there in zip(shown, answers, strict=True)
        ]


def release(stack: Stack) -> dict[str, Any] | None:
    """The champion, as MLflow has it; None where nothing was released."""
    asked = {"name": PAIR, "alias": "champion"}
    answer = _client(stack.mlflow_url).get("/api/2.0/mlflow/registered-models/alias", params=asked)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    version = answer.raise_for_status().json()["model_version"]
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    return {
        "version": int(version["version"]),
        "made_ms": int(version["creation_timestamp"]),
        "dataset": tags.get("pangu.dataset", ""),
        "dataset_version": tags.get("pangu.dataset_version", ""),
        "recipe": tags.get("pangu.recipe", ""),
        "page": f"{stack.mlflow_url}/#/models/{PAIR}/versions/{version['version']}",
        "run_id": version.get("run_id", ""),
    }


def pictures(home: Home) -> bytes | None:
    """PNG of what the champion drew when it was evaluated; None where there is no such thing."""
    stack = Stack.load(home)
    if stack is None or not stack.is_running:
        return None
    found = _or_none(lambda: release(stack))
    if not found:
        return None
    asked = {"path": PICTURES, "run_uuid": found["run_id"]}
    answer = _or_none(lambda: _client(stack.mlflow_url).get("/get-artifact", params=asked))
    usable = answer is not None and answer.is_success and len(answer.content) <= PICTURE_BYTES
    return answer.content if answer is not None and usable else None


def served(stack: Stack) -> dict[str, Any] | None:
    """What answers at the served API; None where nothing does."""
    model = _client(stack.serve_url).get("/v1/models").raise_for_status().json()["data"][0]
    return {"version": model["pair_version"], "styles": model.get("styles", []), "sizes": model.get("sizes", [])}


def flow_runs(stack: Stack) -> list[dict[str, Any]]:
    """Runs under way, then those that ended last; without what a schedule has planned."""
    with _client(stack.prefect_api_url) as api:
        begun = {"flow_runs": {"state": {"type": {"any_": [*UNDER_WAY]}}, "start_time": {"is_null_": False}}}
        ended = {"flow_runs": {"end_time": {"is_null_": False}}}
        found = api.post("/flow_runs/filter", json=begun | {"limit": 20}).raise_for_status().json()
        last = {"sort": "END_TIME_DESC", "limit": SHOWN_RUNS}
        found += api.post("/flow_runs/filter", json=ended | last).raise_for_status().json()
        deployments = api.post("/deployments/filter", json={}).raise_for_status().json()
    names = {one["id"]: one["name"] for one in deployments}
    return [
        {
            "name": run["name"],
            "deployment": names.get(run["deployment_id"], ""),
            "state": (run["state"] or {}).get("type", "SCHEDULED"),
            "began": run["start_time"],
            "ended": run["end_time"],
            "page": f"{stack.prefect_url}/runs/flow-run/{run['id']}",
        }
        for run in found[:20]
    ]


def dataset_names(home: Home) -> list[str]:
    """Datasets of the home, those that have been prepared."""
    folders = (home.root / "datasets").glob("*/")
    return sorted(folder.name for folder in folders if home.tables or (folder / "table" / "_delta_log").is_dir())


def newest_runs(home: Home) -> list[str]:
    """Names of the trainings, newest first."""
    return [run.id for run in sorted(runs(home), key=_newest)]


def _newest(run: Named) -> float:
    return -run.age


def disk(root: Path) -> dict[str, int] | None:
    """Bytes of the disk of the home, to a tenth of a gigabyte; None where nobody says."""
    with suppress(OSError):
        there = next(folder for folder in (root, *root.parents) if folder.is_dir())
        usage = shutil.disk_usage(there)
        return {"total": usage.total, "free": usage.free // ROUNDED * ROUNDED}
    return None


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False, verify=trusted())


def _or_none(ask: Callable[[], Found]) -> Found | None:
    try:
        return ask()
    except (httpx.HTTPError, KeyError, ValueError):
        return None
