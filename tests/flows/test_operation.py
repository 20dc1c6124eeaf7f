"""What happens without anybody looking: events, missed schedules, dead machines, orphans, old files; on the real stack."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pangu import jobs
from pangu.data.example.openmoji import selection
from pangu.data.table.versions import log
from pangu.stack import Stack
from pangu.stack.automations import SILENT_RUN, install_automations
from pangu.stack.flow_runs import SCHEDULED_TAG, catch_up
from pangu.stack.model import WORK_POOL
from pangu.stack.prefect_api import prefect_api
from pangu.storage import Home
from tests.dashboard import deployment, finish, press, state
from tests.small_dataset import NAME, commit_rows, row

ROOT = Path(__file__).parents[2]
UNKNOWN = {"card": "no-such-card"}
"""A run with it ends at its first stage."""


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    with prefect_api(stack) as client:
        yield client


@pytest.fixture
def nobody_works(api: httpx.Client) -> Iterator[None]:
    """The work pool is paused, so that runs stay as they are made."""
    api.patch(f"/work_pools/{WORK_POOL}", json={"is_paused": True}).raise_for_status()
    try:
        yield
    finally:
        api.patch(f"/work_pools/{WORK_POOL}", json={"is_paused": False}).raise_for_status()


def runs_of(api: httpx.Client, name: str) -> list[dict[str, Any]]:
    asked = {"deployments": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_DESC"}
    return api.post("/flow_runs/filter", json=asked).raise_for_status().json()


@pytest.mark.long
def test_a_new_dataset_version_starts_a_retraining_once_that_is_switched_on(
    api: httpx.Client, stack_environment: Stack
) -> None:
    found = api.get(f"/automations/related-to/prefect.deployment.{deployment(api, 'retrain-pair')['id']}").json()
    automation = f"/automations/{found[0]['id']}"
    before = {run["id"] for run in runs_of(api, "retrain-pair")}
    tell = (
        "from flows.events import announce\n"
        "for nothing_new in (True, False):\n"
        "    announce('no-such-card', {'already_done': nothing_new, 'dataset': 'x', 'version': 3})"
    )
    api.patch(automation, json={"enabled": True}).raise_for_status()
    try:
        subprocess.run([sys.executable, "-c", tell], cwd=ROOT, check=True, capture_output=True)
        deadline = time.monotonic() + 120
        while not (started := [run for run in runs_of(api, "retrain-pair") if run["id"] not in before]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        api.patch(automation, json={"enabled": False}).raise_for_status()
    (run,) = started
    assert run["parameters"]["settings"]["card"] == "no-such-card"
    assert finish(api, run["id"])["message"].startswith("There is no card 'no-such-card'")


@pytest.mark.usefixtures("nobody_works")
@pytest.mark.long
def test_of_missed_schedules_the_newest_is_made_up_for_and_vacuums_what_is_old(api: httpx.Client, stack: Stack) -> None:
    """Three nights were missed, and a person asked for a fourth run before them."""
    home, now = Home(stack.home), datetime.now(UTC)
    for night in ("first", "second"):
        commit_rows(home, [row(one, False) for one in selection(2)], key=night)
    settings = {"dataset": NAME, "keep": 1, "dry_run": False}

    def scheduled(days_ago: int, *tags: str) -> str:
        when = {"scheduled_time": (now - timedelta(days=days_ago)).isoformat()}
        more = {"state": {"type": "SCHEDULED", "state_details": when}, "tags": list(tags)}
        return str(press(api, "vacuum-datasets", settings, **more).raise_for_status().json()["id"])

    asked_for, *missed = scheduled(4), *(scheduled(days, SCHEDULED_TAG) for days in (3, 2, 1))
    assert set(catch_up(stack)) == set(missed[:2])
    assert [state(api, run)["type"] for run in missed] == ["CANCELLED", "CANCELLED", "SCHEDULED"]
    assert "Missed while the stack was down" in state(api, missed[0])["message"]
    assert state(api, asked_for)["type"] == "SCHEDULED"
    api.patch(f"/work_pools/{WORK_POOL}", json={"is_paused": False}).raise_for_status()
    assert {finish(api, run)["type"] for run in (asked_for, missed[2])} == {"COMPLETED"}
    readable = [entry.readable for entry in log(home, NAME)]
    assert readable.count(True) == 1 and readable[0]


def silent_since_now(api: httpx.Client, run: str) -> dict[str, Any]:
    """A sign of life, and then none; again if the server had not yet taken the changed automation in when the sign came."""
    for _ in range(6):
        sign = {
            "occurred": datetime.now(UTC).isoformat(), "event": "prefect.flow-run.heartbeat", "id": str(uuid4()), "payload": {},
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"}, "related": [],
        }  # fmt: skip
        api.post("/events", json=[sign]).raise_for_status()
        deadline = time.monotonic() + 25
        while (now := state(api, run))["type"] == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.5)
        if now["type"] != "RUNNING":
            break
    return now


@pytest.mark.usefixtures("nobody_works")
@pytest.mark.long
def test_a_run_that_falls_silent_is_crashed_by_the_automation_and_its_slot_is_free(
    api: httpx.Client, stack: Stack
) -> None:
    """The installed automation with 10 s in the place of 120, for this run alone; its last sign of life is ours."""
    found = deployment(api, "prepare-dataset")
    run = press(api, "prepare-dataset", {"ingest_id": "x"}).raise_for_status().json()["id"]
    for kind in ("PENDING", "RUNNING"):
        body = {"state": {"type": kind}}
        answer = api.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status().json()
        assert answer["status"] == "ACCEPT", answer
    limit = f"/v2/concurrency_limits/{found['global_concurrency_limit']['id']}"
    assert api.get(limit).json()["active_slots"] == 1
    trigger = SILENT_RUN["trigger"] | {"within": 10, "match": {"prefect.resource.id": [f"prefect.flow-run.{run}"]}}
    named = {"automations": {"name": {"any_": [SILENT_RUN["name"]]}}}
    (known,) = api.post("/automations/filter", json=named).raise_for_status().json()
    try:
        api.put(f"/automations/{known['id']}", json=SILENT_RUN | {"trigger": trigger}).raise_for_status()
        end = silent_since_now(api, run)
    finally:
        install_automations(stack)
    assert end["type"] == "CRASHED" and end["message"].startswith("It gave no sign of life")
    assert api.get(limit).json()["active_slots"] == 0
    (restored,) = api.post("/automations/filter", json=named).raise_for_status().json()
    assert restored["trigger"]["within"] == SILENT_RUN["trigger"]["within"]


@pytest.mark.long
def test_a_job_that_a_dead_run_left_behind_is_stopped_by_the_next_run_of_any_flow(
    api: httpx.Client, stack_environment: Stack
) -> None:
    client = jobs.connect()
    dead = press(api, "ingest-images", UNKNOWN).raise_for_status().json()["id"]
    finish(api, dead)
    orphan = client.submit_job(entrypoint="sleep 600", submission_id=f"{dead}-prepare-1")
    stranger = client.submit_job(entrypoint="sleep 600", submission_id=f"{uuid4()}-prepare-1")
    try:
        finish(api, press(api, "ingest-images", UNKNOWN).raise_for_status().json()["id"])
        assert client.get_job_status(orphan) == "STOPPED"
        assert not client.get_job_status(stranger).is_terminal()
    finally:
        client.stop_job(stranger)
