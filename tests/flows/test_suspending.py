"""*Suspend*, *Resume* and *Cancel* in every stage of a retraining: nothing of it computes afterwards, and it goes on there.

And Ctrl-C in a terminal that shows one: it goes on.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from pangu import jobs
from pangu.data.example.openmoji import render_png, selection
from pangu.retrain.button import Button
from pangu.retrain.press import DEPLOYMENT
from pangu.stack import Stack
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import marked
from pangu.stack.reconciler import FLOW_RUN
from pangu.storage import write_json
from tests.dashboard import finish, press, reach

pytestmark = [pytest.mark.long, pytest.mark.slow]
STAGES = ("ingest", "prepare", "encode", "train-structure", "evaluate", "gate", "release")
DRAWINGS = 12
PATIENCE_S = 300.0


@pytest.fixture
def card(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Of a dataset that no other test has."""
    name = "-".join(request.node.name.split("_")[2:6])  # retraining-that-is-suspended
    (tmp_path / "images").mkdir()
    for index, one in enumerate(selection(DRAWINGS)):
        (tmp_path / f"images/{index}.png").write_bytes(render_png(one, 96))
        write_json(tmp_path / f"images/{index}.json", {"en": one.caption_en, "zh": one.caption_zh})
    path = tmp_path / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nsource: images\ncolumns: {{caption_en: en, caption_zh: zh}}\nlicence: {{name: CC BY-SA 4.0}}\n"
        "texture_min_side: 64\n"
    )
    return path


def suspend(api: httpx.Client, run_id: str) -> None:
    """Press *Suspend*: the call that the dashboard makes."""
    until = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    details = {"pause_timeout": until, "pause_reschedule": True}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    api.post(f"/flow_runs/{run_id}/set_state", json={"state": state, "force": True}).raise_for_status()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def states_of(api: httpx.Client, run_id: str, stage: str) -> list[str]:
    asked = {"flow_runs": {"id": {"any_": [run_id]}}, "task_runs": {"name": {"any_": [stage]}}}
    found: list[dict[str, Any]] = api.post("/task_runs/filter", json=asked).raise_for_status().json()
    return [run["state"]["type"] for run in found if run["state"]]  # none for a moment, when it is made


def living_jobs(stack: Stack, run_id: str) -> list[str]:
    headers = {"Authorization": f"Bearer {stack.token}"}
    found = httpx.get(f"{stack.ray_dashboard_url}/api/jobs/", headers=headers, timeout=30, trust_env=False).json()
    return [
        job["submission_id"]
        for job in found
        if (job["submission_id"] or "").startswith(run_id) and job["status"] in ("PENDING", "RUNNING")
    ]


def test_a_retraining_that_is_suspended_in_every_stage_computes_nothing_meanwhile_and_completes(
    stack: Stack, card: Path
) -> None:
    api = prefect_api(stack)
    settings = {"card": str(card), "recipe": "tiny", "deploy": False, "approval": "person"}
    run = press(api, "retrain-pair", settings).raise_for_status().json()["id"]
    for stage in STAGES:
        if stage == "release":
            reach(api, run, "PAUSED", timeout_s=PATIENCE_S)
            answer = {"run_input": {"release": True, "note": ""}}
            assert api.post(f"/flow_runs/{run}/resume", json=answer).raise_for_status().json()["status"] == "ACCEPT"
        wait_for(lambda stage=stage: "RUNNING" in states_of(api, run, stage))  # type: ignore[misc]
        suspend(api, run)
        wait_for(lambda: not marked(jobs.MARK, run, prefix=True) and not marked(FLOW_RUN, run))
        wait_for(lambda: not living_jobs(stack, run))
        time.sleep(4)  # longer than the reconciler's pause
        now = api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]
        assert now["name"] == "Suspended", (stage, now)
        assert api.post(f"/flow_runs/{run}/resume", json={}).raise_for_status().json()["status"] == "ACCEPT", stage
    reach(api, run, "PAUSED", "COMPLETED", timeout_s=PATIENCE_S)
    if api.get(f"/flow_runs/{run}").json()["state"]["type"] == "PAUSED":
        answer = {"run_input": {"release": True, "note": ""}}
        api.post(f"/flow_runs/{run}/resume", json=answer).raise_for_status()
    assert finish(api, run, timeout_s=PATIENCE_S)["type"] == "COMPLETED"


def test_a_retraining_that_is_cancelled_in_any_stage_leaves_nothing_running_and_the_next_one_goes_on_from_there(
    stack: Stack, card: Path
) -> None:
    api = prefect_api(stack)
    settings = {"card": str(card), "recipe": "tiny", "deploy": False, "approval": "none"}
    for stage in STAGES:
        run = press(api, "retrain-pair", settings).raise_for_status().json()["id"]
        wait_for(lambda run=run, stage=stage: "RUNNING" in states_of(api, run, stage))  # type: ignore[misc]
        answer = api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
        answer.raise_for_status()
        assert finish(api, run, timeout_s=PATIENCE_S)["type"] == "CANCELLED", stage
        wait_for(lambda run=run: not marked(jobs.MARK, run, prefix=True) and not marked(FLOW_RUN, run))  # type: ignore[misc]
        wait_for(lambda run=run: not living_jobs(stack, run))  # type: ignore[misc]
    last = press(api, "retrain-pair", settings).raise_for_status().json()["id"]
    assert finish(api, last, timeout_s=PATIENCE_S)["type"] == "COMPLETED"


def test_ctrl_c_in_any_stage_leaves_the_retraining_running_and_the_next_terminal_shows_its_end(
    stack: Stack, card: Path, tmp_path: Path
) -> None:
    """A terminal for each stage, all of which show one run; ingest's is `test_pressing`'s. What is left ends by itself."""
    command = [sys.executable, "-m", "pangu", "retrain", str(card), "--recipe", "tiny"]
    environment, stages = os.environ | stack.environment(), (*STAGES[1:], "deploy")
    terminals: dict[str, tuple[subprocess.Popen[str], Path]] = {}
    try:
        for stage in stages:
            said = tmp_path / f"{stage}.txt"
            with said.open("w") as file:
                terminals[stage] = subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True), said
        for _, said in terminals.values():
            wait_for(lambda said=said: "Ctrl-C leaves it running" in said.read_text())  # type: ignore[misc]
        (run,) = [each for each in Button(stack, DEPLOYMENT).runs() if each.settings.get("card") == str(card)]
        api, caught = prefect_api(stack), []
        for stage, (terminal, said) in terminals.items():
            wait_for(lambda stage=stage: {"RUNNING", "COMPLETED"} & {*states_of(api, run.run_id, stage)})  # type: ignore
            caught += [stage] if "RUNNING" in states_of(api, run.run_id, stage) else []
            terminal.send_signal(signal.SIGINT)
            assert terminal.wait(60) == 130, (stage, said.read_text())
            left = f"the retraining goes on; watch it with `pangu retrain {card} --watch`"
            assert left in " ".join(said.read_text().split()), (stage, said.read_text())
        last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    finally:
        for terminal, _ in terminals.values():
            terminal.kill()
    assert len(caught) >= len(stages) - 1, caught
    assert last.returncode == 0, last.stderr
    assert "is under way already" in last.stderr and run.run_id in last.stderr
    assert finish(api, run.run_id, timeout_s=PATIENCE_S)["type"] == "COMPLETED"
