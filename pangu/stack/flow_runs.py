"""Flow runs that ended with their stack: Prefect still believes in them, and they hold concurrency slots."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pangu.stack.model import Stack
from pangu.stack.prefect_api import prefect_api

UNDER_WAY = ("RUNNING", "PENDING", "PAUSED", "CANCELLING")
"""Types of state of a run that has a process, or should have: one that is paused waits in it for a person's answer."""
SUSPENDED = "Suspended"
"""Name of the one state of type PAUSED that has no process: a run that is left until somebody resumes it."""
SCHEDULED_TAG = "auto-scheduled"
"""Prefect's own tag of the runs that a schedule made."""


def settle(stack: Stack, state: str, message: str) -> None:
    """Give every run under way the final `state` and free all concurrency slots; for when no run can be alive.

    Suspended ones stay so: they are begun anew when somebody resumes them.
    """
    with prefect_api(stack) as api:
        asked = {"flow_runs": {"state": {"type": {"any_": list(UNDER_WAY)}}}}
        for run in api.post("/flow_runs/filter", json=asked).raise_for_status().json():
            if run["state"]["name"] == SUSPENDED:
                continue
            final = {"type": state, "message": message}
            api.post(f"/flow_runs/{run['id']}/set_state", json={"state": final, "force": True}).raise_for_status()
        for limit in api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json():
            if limit["active_slots"]:
                api.patch(f"/v2/concurrency_limits/{limit['id']}", json={"active_slots": 0}).raise_for_status()


def catch_up(stack: Stack) -> list[str]:
    """Of the scheduled runs that a deployment missed while the stack was down, keep the newest; returns the ids of the others.

    One retraining makes up for every one that was missed. Runs that a person asked for are all kept.
    """
    late = {"type": {"any_": ["SCHEDULED"]}}
    before = {"before_": datetime.now(UTC).isoformat()}
    asked = {"flow_runs": {"state": late, "expected_start_time": before, "tags": {"all_": [SCHEDULED_TAG]}}}
    with prefect_api(stack) as api:
        runs = api.post("/flow_runs/filter", json=asked).raise_for_status().json()
        missed = superseded([(run["id"], run["deployment_id"] or "", run["expected_start_time"]) for run in runs])
        for run_id in missed:
            final = {
                "type": "CANCELLED",
                "message": "Missed while the stack was down; a later one of the schedule runs.",
            }
            api.post(f"/flow_runs/{run_id}/set_state", json={"state": final, "force": True}).raise_for_status()
    return missed


def superseded(runs: Sequence[tuple[str, str, str]]) -> list[str]:
    """Ids of all runs but the newest of each deployment, of (id, deployment, ISO 8601 time in UTC)."""
    newest: dict[str, tuple[str, str]] = {}
    for run_id, deployment, when in runs:
        newest[deployment] = max(newest.get(deployment, ("", "")), (when, run_id))
    kept = {run_id for _, run_id in newest.values()}
    return [run_id for run_id, _, _ in runs if run_id not in kept]
