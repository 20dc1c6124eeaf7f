"""Pressing the buttons of the dashboard: the calls that its pages make, on a real Prefect server."""

import time
from typing import Any

import httpx

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def deployment(api: httpx.Client, name: str) -> dict[str, Any]:
    return api.get(f"/deployments/name/{name}/{name}").raise_for_status().json()


def press(api: httpx.Client, name: str, settings: dict[str, Any], **more: Any) -> httpx.Response:
    """Ask for a run of a deployment; `more` are further fields of the request."""
    body = {"parameters": {"settings": settings}, "state": {"type": "SCHEDULED"}} | more
    return api.post(f"/deployments/{deployment(api, name)['id']}/create_flow_run", json=body)


def state(api: httpx.Client, run_id: str) -> dict[str, Any]:
    """The run's state; one without a type while the database is away."""
    answer = api.get(f"/flow_runs/{run_id}")
    return answer.json()["state"] if answer.is_success else {"type": ""}


def reach(api: httpx.Client, run_id: str, *types: str, timeout_s: float = 300) -> dict[str, Any]:
    """The run's state as soon as it is of one of the types."""
    deadline = time.monotonic() + timeout_s
    while (now := state(api, run_id))["type"] not in types:
        assert time.monotonic() < deadline, f"the run {run_id} is still {now} after {timeout_s} s"
        time.sleep(0.5)
    return now


def finish(api: httpx.Client, run_id: str, timeout_s: float = 300) -> dict[str, Any]:
    """The final state of a run."""
    return reach(api, run_id, *FINAL, timeout_s=timeout_s)
