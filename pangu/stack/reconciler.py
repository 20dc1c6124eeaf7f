"""`python -m pangu.stack.reconciler`: puts right what the death of one server leaves wrong with the others, every few seconds.

A flow run whose process is gone is Crashed, one whose worker forgot it can be cancelled or is begun again, jobs of runs that are
over are stopped, and the pair that was deployed is served again after Ray was restarted. Knows processes and the servers' HTTP
interfaces only.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from pangu.errors import UserError
from pangu.jobs import MARK as COMMAND
from pangu.jobs import living
from pangu.stack.certificates import trusted
from pangu.stack.flow_runs import SUSPENDED
from pangu.stack.model import WORK_POOL, Stack
from pangu.stack.offered_cards import cards_of, offer, outdated
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import end, marked
from pangu.stack.supervision import program_states
from pangu.storage import Home, read_json

PAUSE_S = 3.0
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Prefect gives it to a flow run's process."""
CANCELLING_S = 2.0
"""A worker that knows the run has begun to stop it by then; who comes first makes no difference to how the run ends. Nobody waits
for a second look: a person waits."""
ENDED_S = 15.0
"""A run that has just ended may still be clearing away itself."""
STARTING_S = 60.0
"""A worker that takes a run has started its process by then, on a busy machine too."""
DEPLOY_AGAIN_S = 60.0
"""A deployment that failed is not tried again before."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
SERVED = "served.json"
"""What `pangu deploy` leaves in the home: the arguments that serve the same again."""
RUN_ID_LENGTH = 36


class Care(NamedTuple):
    """What is wrong, said as what will be right, and how it is put right."""

    name: str
    act: Callable[[], None]
    looks: int = 2
    """So many must find it: what is seen once may just be beginning or ending."""


class Reconciler:
    """Looks after one stack; `look` is one round."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._headers = {"Authorization": f"Bearer {stack.token}"}
        self._seen: dict[str, int] = {}
        self._deploying: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._offered: list[str] | None = None

    def look(self) -> list[str]:
        """Everything once; returns what was put right. A server that does not answer is somebody else's business."""
        done: list[str] = []
        found: set[str] = set()
        here = processes()
        for cares in (partial(self._flow_runs, here), partial(self._served, here.deploys), self._cards):
            with contextlib.suppress(httpx.HTTPError, OSError, psutil.Error, UserError):
                for one in cares():
                    found.add(one.name)
                    self._seen[one.name] = self._seen.get(one.name, 0) + 1
                    if self._seen[one.name] >= one.looks:
                        one.act()
                        done.append(one.name)
        self._seen = {name: count for name, count in self._seen.items() if name in found and name not in done}
        return done

    def _flow_runs(self, here: "Processes") -> Iterable[Care]:
        runs = self._runs("PENDING", "RUNNING", "PAUSED", "CANCELLING")
        yield from self._gone(runs, here.flow_runs)
        suspended = {run["id"] for run in runs if run["state"]["name"] == SUSPENDED}
        yield from self._left_behind(suspended, here)

    def _gone(self, runs: list[dict[str, Any]], alive: set[str]) -> Iterable[Care]:
        """Runs that are said to go on though their process is gone, and runs that nobody cancels or begins."""
        longest_s = min(STARTING_S, time.time() - self._began("worker"))

        def is_forgotten(run: dict[str, Any]) -> bool:
            return run["work_pool_name"] == WORK_POOL and age_s(run["state"]["timestamp"]) > longest_s

        for run in runs:
            run_id, state = run["id"], run["state"]
            if state["type"] == "CANCELLING" and age_s(state["timestamp"]) > CANCELLING_S:
                yield Care(f"{run_id} is cancelled", partial(self._cancel, run_id), looks=1)
            # A suspended run has no process, and without a process id it is no run of this machine's worker.
            elif state["name"] == SUSPENDED:
                continue
            elif state["type"] in ("RUNNING", "PAUSED") and run["infrastructure_pid"] and run_id not in alive:
                yield Care(f"{run_id} has crashed", partial(self._crash, run_id))
            # The worker that took it died, or lost the server, before its process had begun: nothing was done yet.
            elif state["type"] == "PENDING" and is_forgotten(run) and run_id not in alive:
                yield Care(f"{run_id} is begun again", partial(self._begin_again, run_id))

    def _left_behind(self, suspended: set[str], here: "Processes") -> Iterable[Care]:
        """Jobs and processes of flow runs that are over, or that were suspended and whose own process is gone."""
        found = here.owners | {job[:RUN_ID_LENGTH] for job in self._living_jobs()}
        for run_id in [*self._ended(found), *((suspended & found) - here.flow_runs)]:
            yield Care(f"{run_id} leaves nothing behind", partial(self._stop, run_id))

    def _served(self, deploys: bool) -> Iterable[Care]:
        """The pair that was deployed last, where Ray was started since. An application that a person deleted stays deleted."""
        record = self._stack.home / SERVED
        if not record.is_file() or record.stat().st_mtime > self._began("ray"):
            return
        under_way = self._deploying is not None and self._deploying.poll() is None
        if under_way or deploys or time.monotonic() < self._not_before:
            return
        if not self._ray("GET", "/api/serve/applications/").json().get("applications"):
            yield Care("the deployed pair is served again", partial(self._deploy, record))

    def _cards(self) -> Iterable[Care]:
        """Forms that offer other cards than there are; the server is asked only where cards have come or gone."""
        names = cards_of(self._stack.project)
        if names == self._offered:
            return
        if schemas := outdated(self._stack, names):
            yield Care(f"the forms offer {len(names)} cards", partial(offer, self._stack, schemas), looks=1)
        self._offered = names

    def _began(self, program: str) -> float:
        """Seconds since the epoch; 0 while it does not run."""
        _, pid = program_states(self._stack)[program]
        return psutil.Process(pid).create_time() if pid else 0.0

    def _runs(self, *states: str) -> list[dict[str, Any]]:
        with prefect_api(self._stack) as api:
            asked = {"flow_runs": {"state": {"type": {"any_": list(states)}}}}
            return list(api.post("/flow_runs/filter", json=asked).raise_for_status().json())

    def _ended(self, run_ids: set[str]) -> list[str]:
        """Those that Prefect knows to be over. Runs that it does not know belong to another installation."""
        if not run_ids:
            return []
        with prefect_api(self._stack) as api:
            asked = {"flow_runs": {"id": {"any_": sorted(run_ids)}, "state": {"type": {"any_": list(FINAL)}}}}
            found = api.post("/flow_runs/filter", json=asked).raise_for_status().json()
        return [run["id"] for run in found if age_s(run["state"]["timestamp"]) > ENDED_S]

    def _living_jobs(self) -> list[str]:
        """Submission ids of the jobs of flow runs that Ray has not ended."""
        names = living(self._stack.ray_dashboard_url, self._headers)
        return [name for name in names if is_run_id(name[:RUN_ID_LENGTH])]

    def _crash(self, run_id: str) -> None:
        self._stop(run_id)
        self._set_state(run_id, "CRASHED", "Its process died; run it again, and it continues.")

    def _begin_again(self, run_id: str) -> None:
        self._set_state(run_id, "SCHEDULED", "The worker that took it is gone; the next one begins it.")

    def _cancel(self, run_id: str) -> None:
        self._stop(run_id)
        self._set_state(run_id, "CANCELLED", "Cancelled; run it again, and it continues.")

    def _stop(self, run_id: str) -> None:
        """End the run's processes and jobs on this machine. The flow's own first and at once: asked to end, it would say that it
        has crashed."""
        for process in marked(FLOW_RUN, run_id):
            with contextlib.suppress(psutil.Error):
                if COMMAND not in process.environ():
                    process.kill()
        end(marked(COMMAND, run_id, prefix=True))
        # A head that is away has no jobs, and one that comes back is looked at.
        with contextlib.suppress(httpx.HTTPError, UserError):
            for job in self._living_jobs():
                if job.startswith(run_id):
                    self._ray("POST", f"/api/jobs/{job}/stop")

    def _set_state(self, run_id: str, state: str, message: str) -> None:
        with prefect_api(self._stack) as api:
            body = {"state": {"type": state, "message": message}, "force": True}
            api.post(f"/flow_runs/{run_id}/set_state", json=body).raise_for_status()

    def _ray(self, method: str, path: str) -> httpx.Response:
        url = f"{self._stack.ray_dashboard_url}{path}"
        answer = httpx.request(method, url, headers=self._headers, timeout=10, trust_env=False, verify=trusted())
        return answer.raise_for_status()

    def _deploy(self, record: Path) -> None:
        self._not_before = time.monotonic() + DEPLOY_AGAIN_S
        self._deploying = subprocess.Popen([sys.executable, "-m", "pangu", *read_json(record)["arguments"]])


class Processes(NamedTuple):
    """What the environments of this person's processes say."""

    flow_runs: set[str]
    """Ids of the flow runs whose own process lives; a command that it started may outlive it."""
    owners: set[str]
    """Ids of the flow runs that any process works for."""
    deploys: bool
    """Whether a flow is deploying a pair."""


def processes() -> Processes:
    """Read once a look: a file for each process of the machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            found.append(process.environ())
    marks = [env.get(FLOW_RUN) or env.get(COMMAND, "") for env in found]
    return Processes(
        {env[FLOW_RUN] for env in found if FLOW_RUN in env and COMMAND not in env},
        {mark[:RUN_ID_LENGTH] for mark in marks if is_run_id(mark[:RUN_ID_LENGTH])},
        any(env.get(COMMAND, "").endswith("-deploy") for env in found),
    )


def is_run_id(text: str) -> bool:
    """Whether it has the shape of the ids that Prefect gives."""
    return len(text) == RUN_ID_LENGTH and [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]


def age_s(timestamp: str) -> float:
    """Seconds since an ISO 8601 time."""
    return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()


def main() -> None:
    """Look every few seconds, once the stack is complete, until the supervisor ends this process."""
    home = Home.from_environment()
    reconciler: Reconciler | None = None
    while True:
        time.sleep(PAUSE_S)
        stack = Stack.load(home)
        if stack is None or not stack.is_complete:
            continue
        reconciler = reconciler or Reconciler(stack)
        for done in reconciler.look():
            print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {done}", flush=True)


if __name__ == "__main__":
    main()
