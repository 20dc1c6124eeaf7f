"""What the death of a worker leaves wrong with its flow runs is put right by the reconciler of the running stack."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from pangu import jobs
from pangu.stack import Stack
from pangu.stack.flow_runs import settle
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import end, marked
from pangu.stack.reconciler import FLOW_RUN, Reconciler, is_run_id
from pangu.stack.supervision import program_states
from tests.dashboard import finish, press, reach
from tests.faults.chaos.faults import by_program, kill

PATIENCE_S = 120


@pytest.fixture
def api(stack: Stack) -> httpx.Client:
    return prefect_api(stack)


@pytest.fixture
def taken(api: httpx.Client, stack: Stack, card_that_takes_forever: Path) -> str:
    """A run that a worker has taken and not begun."""
    state = {"state": {"type": "PENDING"}}
    return press(api, "ingest-images", {"card": str(card_that_takes_forever)}, **state).raise_for_status().json()["id"]


@pytest.fixture
def forgotten(api: httpx.Client, stack: Stack, card_that_takes_forever: Path) -> str:
    """A run at work whose worker was killed; the one that is there now knows nothing of it."""
    run = press(api, "ingest-images", {"card": str(card_that_takes_forever)}).raise_for_status().json()
    deadline = time.monotonic() + PATIENCE_S
    while len(marked(jobs.MARK, run["id"], prefix=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    kill_worker(stack)
    return run["id"]


def kill_worker(stack: Stack) -> None:
    """And wait for the next."""
    (worker,) = by_program("worker")(stack)
    assert kill([worker])
    wait_for(lambda: program_states(stack)["worker"][1] not in (0, worker.pid))


@pytest.mark.long
def test_a_run_that_its_worker_forgot_can_be_cancelled(api: httpx.Client, forgotten: str) -> None:
    api.post(f"/flow_runs/{forgotten}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert finish(api, forgotten)["type"] == "CANCELLED"
    assert marked(jobs.MARK, forgotten, prefix=True) == marked(FLOW_RUN, forgotten) == []


def test_a_run_that_died_after_its_worker_has_crashed_and_one_that_had_not_begun_is_begun(
    api: httpx.Client, taken: str, forgotten: str
) -> None:
    assert kill([process for process in marked(FLOW_RUN, forgotten) if "prefect.engine" in process.cmdline()])
    try:
        state = finish(api, forgotten)
        assert (state["type"], state["message"]) == (
            "CRASHED",
            "Its process died; run it again, and it continues.",
        )
        wait_for(lambda: not marked(jobs.MARK, forgotten, prefix=True))
        reach(api, taken, "RUNNING", timeout_s=PATIENCE_S)
        api.post(f"/flow_runs/{taken}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
        assert finish(api, taken)["type"] == "CANCELLED"
    finally:
        end(marked(jobs.MARK, forgotten, prefix=True))


def suspend(api: httpx.Client, run_id: str) -> None:
    """Press *Suspend*, as the dashboard does."""
    until = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    details = {"pause_timeout": until, "pause_reschedule": True}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    api.post(f"/flow_runs/{run_id}/set_state", json={"state": state}).raise_for_status()


def name_of_state(api: httpx.Client, run_id: str) -> str:
    return api.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"]["name"]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.long
def test_a_suspended_run_stops_its_stage_stays_suspended_and_goes_on_when_resumed(
    api: httpx.Client, stack: Stack, card_that_takes_forever: Path
) -> None:
    run = press(api, "ingest-images", {"card": str(card_that_takes_forever)}).raise_for_status().json()["id"]
    wait_for(lambda: len(marked(jobs.MARK, run, prefix=True)) >= 2)
    suspend(api, run)
    wait_for(lambda: not marked(jobs.MARK, run, prefix=True) and not marked(FLOW_RUN, run))
    reconciler = Reconciler(stack)
    assert [reconciler.look() for _ in range(3)] == [[], [], []]
    settle(stack, "CRASHED", "The stack went down.")
    assert name_of_state(api, run) == "Suspended"

    found = api.post(f"/flow_runs/{run}/resume", json={}).raise_for_status().json()
    assert found["status"] == "ACCEPT"
    wait_for(lambda: len(marked(jobs.MARK, run, prefix=True)) >= 2)
    assert name_of_state(api, run) == "Running"
    api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert finish(api, run)["type"] == "CANCELLED"


def test_only_what_prefect_names_runs_by_is_taken_for_one() -> None:
    assert is_run_id("18baa14f-ea7a-40ac-9123-e7567d35faa5")
    assert not is_run_id("18baa14f-ea7a-40ac-9123-e7567d35faa")
    assert not is_run_id("raysubmit_18baa14f-ea7a-40ac-9123-e7")
