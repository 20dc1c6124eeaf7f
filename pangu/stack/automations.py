"""Automations that the stack installs in its Prefect server: what nobody else would notice."""

from typing import Any

from pangu.stack.model import HEARTBEAT_S, Stack
from pangu.stack.prefect_api import prefect_api

SILENCE_S = 4 * HEARTBEAT_S
"""A run that was silent for so long is taken for dead."""

SILENT_RUN: dict[str, Any] = {
    "name": "pangu: a silent flow run has crashed",
    "description": f"A run whose process or machine died is silent for {SILENCE_S} s; it would be Running forever.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        "match_related": {},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in (
            "Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry", "Late", "Scheduled",
        ))],
        "threshold": 1,
        "within": SILENCE_S,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"It gave no sign of life for {SILENCE_S} s; run it again, and it continues.",
        }
    ],
}  # fmt: skip


def install_automations(server: Stack | str) -> None:
    """Create the stack's automations, or bring those of an earlier version up to date."""
    with prefect_api(server) as api:
        for wanted in (SILENT_RUN,):
            named = {"automations": {"name": {"any_": [wanted["name"]]}}}
            known = api.post("/automations/filter", json=named).raise_for_status().json()
            if known:
                api.put(f"/automations/{known[0]['id']}", json=wanted).raise_for_status()
            else:
                api.post("/automations/", json=wanted).raise_for_status()
