"""A person behind the gate: yes goes on, no stops with the reason; a run that waits can be cancelled, and ends when it dies."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from pangu.stack import Stack
from pangu.stack.model import WORK_POOL
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import marked
from pangu.stack.reconciler import FLOW_RUN
from tests.dashboard import finish, reach
from tests.faults.chaos.faults import kill

ROOT = Path(__file__).parents[2]
WAITING = 3
"""Tests of a run that waits, and is started with others."""


@pytest.fixture(scope="module")
def api(stack: Stack) -> httpx.Client:
    return prefect_api(stack)


@pytest.fixture(scope="module")
def asking(api: httpx.Client) -> str:
    """The id of a deployment that only asks."""
    flow = api.post("/flows/", json={"name": "ask-a-person"}).raise_for_status().json()
    directory = {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    body = {
        "name": "ask-a-person",
        "flow_id": flow["id"],
        "entrypoint": "tests/flows/asking.py:ask",
        "parameter_openapi_schema": {},
        "pull_steps": [directory],
        "work_pool_name": WORK_POOL,
    }
    return api.post("/deployments/", json=body).raise_for_status().json()["id"]


def start(api: httpx.Client, asking: str, **parameters: Any) -> str:
    asked = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
    return api.post(f"/deployments/{asking}/create_flow_run", json=asked).raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def asked(api: httpx.Client, asking: str) -> list[str]:
    """Runs that ask a person, one for each test: started together, they wait for their processes at the same time."""
    return [start(api, asking) for _ in range(WAITING)]


@pytest.fixture
def waiting(api: httpx.Client, asked: list[str]) -> str:
    """A run of this test's own that waits for an answer."""
    return once_it_waits(api, asked.pop())


def once_it_waits(api: httpx.Client, run: str) -> str:
    """The same run."""
    keys = reach(api, run, "PAUSED")["state_details"]["run_input_keyset"]
    # Prefect pauses the run a moment before it says what may be answered.
    deadline = time.monotonic() + 30
    while not api.get(f"/flow_runs/{run}/input/{keys['schema']}").is_success:
        assert time.monotonic() < deadline, "nothing is asked"
        time.sleep(0.1)
    return run


def answer(api: httpx.Client, run_id: str, **said: Any) -> None:
    """Press *Resume* and fill in what is asked."""
    said = {"release": False, "note": ""} | said
    found = api.post(f"/flow_runs/{run_id}/resume", json={"run_input": said}).raise_for_status().json()
    assert found["status"] == "ACCEPT"


@pytest.mark.usefixtures("asked")
def test_at_a_closed_gate_nobody_is_asked(api: httpx.Client, asking: str) -> None:
    state = finish(api, start(api, asking, passed=False))
    assert state["type"] == "FAILED"
    assert state["message"] == "The gate stays closed and the champion keeps serving: The foxes became worse."


def test_an_answer_that_is_none_is_refused_and_the_run_waits_on_until_yes(api: httpx.Client, waiting: str) -> None:
    refused = api.post(f"/flow_runs/{waiting}/resume", json={"run_input": {"release": "perhaps", "note": ""}}).json()
    assert (refused["status"], api.get(f"/flow_runs/{waiting}").json()["state"]["type"]) == ("REJECT", "PAUSED")
    answer(api, waiting, release=True)
    assert finish(api, waiting)["type"] == "COMPLETED"


def test_no_stops_with_the_reason_that_was_given(api: httpx.Client, waiting: str) -> None:
    answer(api, waiting, note="The foxes are too blue.")
    state = finish(api, waiting)
    assert state["type"] == "FAILED"
    assert state["message"] == "A person refused the pair and the champion keeps serving: The foxes are too blue."


def test_a_waiting_run_can_be_cancelled(api: httpx.Client, waiting: str) -> None:
    api.post(f"/flow_runs/{waiting}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert finish(api, waiting)["type"] == "CANCELLED"
    # Its process says so, and ends a moment later.
    deadline = time.monotonic() + 30
    while marked(FLOW_RUN, waiting):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.5)


@pytest.mark.long
def test_a_run_that_dies_while_it_waits_does_not_wait_for_ever(api: httpx.Client, asking: str) -> None:
    waiting = once_it_waits(api, start(api, asking))
    assert kill([process for process in marked(FLOW_RUN, waiting) if "prefect.engine" in process.cmdline()])
    assert finish(api, waiting)["type"] == "CRASHED"
