"""Pressing a deployment's button and looking at its runs, over Prefect's REST API, without importing Prefect."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from pangu.errors import UserError
from pangu.forms import flat, folded, known_fields
from pangu.stack import Stack
from pangu.stack.flow_runs import SCHEDULED_TAG
from pangu.stack.prefect_api import prefect_api

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
RESTART = "pangu down; pangu up"


@dataclass(frozen=True)
class StageView:
    """A stage as the dashboard shows it at one moment."""

    name: str
    state: str
    percent: float
    description: str
    seconds: float


@dataclass(frozen=True)
class RunView:
    """A flow run at one moment; stages in the order in which they began. name: of the state, e.g. `AwaitingConcurrencySlot`."""

    state: str
    message: str
    stages: tuple[StageView, ...]
    name: str = ""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class AskedRun:
    """A run of a deployment, with the settings that it was asked for."""

    run_id: str
    state: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class Button:
    """One deployment of a running stack."""

    def __init__(self, stack: Stack, deployment: str) -> None:
        self._api = prefect_api(stack)
        self._deployment = deployment

    def press(self, settings: dict[str, Any], name: str = "") -> str:
        """Ask for a run with these parameters, as the dashboard's form would, and return its id.

        name: of the run; Prefect invents one where there is none.

        Raises:
            UserError: the server does not know the deployment or one of the parameters, or refuses them.
        """
        response = self._api.get(f"/deployments/name/{self._deployment}/{self._deployment}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise UserError(f"Prefect has no deployment {self._deployment}; restart the stack: `{RESTART}`.")
        deployment = response.raise_for_status().json()
        form = _form(deployment)
        known = known_fields(form)
        if known and (unknown := settings.keys() - known):
            raise UserError(
                f"The stack runs older code, whose {self._deployment} takes no {min(unknown)}; restart it: `{RESTART}`."
            )
        body = {"parameters": {"settings": folded(settings, form)}, "state": {"type": "SCHEDULED"}}
        body |= {"name": name} if name else {}
        response = self._api.post(f"/deployments/{deployment['id']}/create_flow_run", json=body)
        if response.is_client_error:
            raise UserError(f"Prefect refuses the parameters of {self._deployment}: {response.text}")
        return response.raise_for_status().json()["id"]

    def runs(self) -> list[AskedRun]:
        """Runs that somebody asked for and the schedule's that have begun, newest first; at most 200."""
        asked = {"deployments": {"name": {"any_": [self._deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
        found = self._api.post("/flow_runs/filter", json=asked).raise_for_status().json()
        return [
            AskedRun(run["id"], state, flat((run["parameters"] or {}).get("settings") or {}))
            for run in found
            if (state := (run["state"] or {}).get("type", "SCHEDULED")) != "SCHEDULED"
            or SCHEDULED_TAG not in run["tags"]
        ]

    def look(self, run_id: str) -> RunView:
        """The run and its stages as they are now."""
        run = self._api.get(f"/flow_runs/{run_id}").raise_for_status().json()
        of_run = {"flow_runs": {"id": {"any_": [run_id]}}}
        tasks = self._api.post("/task_runs/filter", json=of_run).raise_for_status().json()
        artifacts = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["progress"]}}}
        bars = {
            bar["task_run_id"]: bar
            for bar in self._api.post("/artifacts/filter", json=artifacts).raise_for_status().json()
        }
        begun = [task for task in tasks if task["start_time"]]
        state = run["state"] or {}
        return RunView(
            state.get("type", "SCHEDULED"),
            state.get("message") or "",
            tuple(_stage(task, bars.get(task["id"])) for task in sorted(begun, key=lambda task: task["start_time"])),
            state.get("name") or "",
        )

    def cancel(self, run_id: str) -> None:
        self._api.post(f"/flow_runs/{run_id}/set_state", json={"state": {"type": "CANCELLING"}})


def _form(deployment: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a deployment's settings; empty where its flow takes none."""
    schema = deployment["parameter_openapi_schema"] or {}
    named = schema.get("properties", {}).get("settings", {}).get("$ref", "").rpartition("/")[2]
    return dict((schema.get("definitions") or {}).get(named) or {})


def _stage(task: dict[str, Any], bar: dict[str, Any] | None) -> StageView:
    seconds = task["total_run_time"] or task["estimated_run_time"] or 0.0
    state = (task["state"] or {}).get("type", "PENDING")
    if bar is None:
        return StageView(task["name"], state, 0.0, "", seconds)
    return StageView(task["name"], state, float(bar["data"] or 0.0), bar["description"] or "", seconds)
