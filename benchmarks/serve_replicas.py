"""Several replicas of the structure pool on a real Ray Serve. One JSON line for each claim, all in one run.

A picture is the same whichever replica draws it; a layout is found again by the replica that has it; load adds a replica and
rest takes it away; changed settings restart every replica; and no request fails meanwhile.

    python benchmarks/serve_replicas.py [--pair FOLDER] [--steps 12]
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import tiny
from pangu.registry.manifest import Manifest
from pangu.serve.app import build_with
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.parts import release_of
from pangu.stack.ports import free_port

CROWD = 8
LAYOUTS = 12
POLL_S = 0.2
WAIT_S = 300.0
# One request for each call, so that a picture does not depend on its company.
ALONE = {"threads": 1, "most_rows": 1}
BASE: dict[str, Any] = {"max_in_flight": 32, "structure": ALONE, "texture": ALONE}
TWO = BASE | {"structure": ALONE | {"replicas": 2}}
SCALED = BASE | {
    "max_in_flight": 8,
    "structure": ALONE | {"most_replicas": 2, "upscale_after_s": 1, "downscale_after_s": 5},
}


class Application:
    """The pools on Ray Serve."""

    def __init__(self, pair: Path, url: str) -> None:
        Manifest.of(pair).save(pair)
        self._lineup = ReleaseRouting(champion=release_of(pair)).model_dump(mode="json")
        self._client = httpx.Client(base_url=url, timeout=WAIT_S, limits=httpx.Limits(max_connections=64))

    def run(self, settings: dict[str, Any]) -> None:
        """Declare it, and wait until it has drawn."""
        from ray import serve

        serve.run(build_with(settings, self._lineup), name="pangu", route_prefix="/")
        wait_for(lambda: self._client.get("/readyz").status_code == 200)

    def draw(self, seed: int, steps: int, **fields: Any) -> httpx.Response:
        body = {"prompt": "a red apple", "seed": seed, "num_inference_steps": steps, **fields}
        return self._client.post("/v1/images/generations", json=body)

    def replicas(self, pool: str = "structure") -> set[str]:
        """Ids of those that run."""
        from ray.serve.context import _get_global_client

        details = _get_global_client().get_serve_details()["applications"]["pangu"]["deployments"]  # type: ignore[union-attr]
        return {each["replica_id"] for each in details[pool]["replicas"] if each["state"] == "RUNNING"}

    def everybody(self) -> set[str]:
        return set().union(*(self.replicas(pool) for pool in ("gateway", "structure", "texture", "decoder")))


class Load:
    """Requests without pause from `clients` threads: what failed, and the longest time without an answer."""

    def __init__(self, application: Application, steps: int) -> None:
        self._application, self._steps = application, steps
        self._over, self._lock = threading.Event(), threading.Lock()
        self.answers, self.failed, self.longest_pause_s = 0, [], 0.0
        self._last = time.perf_counter()

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        with ThreadPoolExecutor(clients) as pool:
            jobs = [pool.submit(self._ask, client) for client in range(clients)]
            try:
                yield
            finally:
                self._over.set()
            for job in jobs:
                job.result()

    def _ask(self, client: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            answer = self._application.draw(10_000 * (client + 1) + number, self._steps)
            with self._lock:
                now = time.perf_counter()
                self.longest_pause_s = max(self.longest_pause_s, now - self._last)
                self._last, self.answers = now, self.answers + 1
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")


def wait_for(condition: Callable[[], bool]) -> float:
    """Seconds until `condition()` is true."""
    clock = time.perf_counter()
    while not condition():
        assert time.perf_counter() - clock < WAIT_S, "waited in vain"
        time.sleep(POLL_S)
    return time.perf_counter() - clock


def report(name: str, value: float, goal: float, holds: bool, **facts: Any) -> None:
    rounded = {key: round(fact, 3) if isinstance(fact, float) else fact for key, fact in facts.items()}
    print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "holds": holds, **rounded}), flush=True)


def same_bytes(application: Application, steps: int) -> None:
    """One request many times at once, so that the preferred replica is busier than the other, which then draws some of them."""
    before = work_of(application)
    with ThreadPoolExecutor(CROWD) as clients:
        answers = list(clients.map(lambda _: application.draw(1, steps), range(2 * CROWD)))
    assert all(answer.status_code == 200 for answer in answers)
    after = work_of(application)
    worked = sum(after[process] - before.get(process, 0.0) > 0.05 for process in after)
    different = len({answer.json()["data"][0]["b64_json"] for answer in answers}) - 1
    drawn = sum(not answer.json()["structure_cached"] for answer in answers)
    report("replicas_same_bytes", different, 0, different == 0 and worked == 2, replicas_that_drew=worked, drawn=drawn)


def work_of(application: Application) -> dict[int, float]:
    """Process id of each structure replica -> its processor time, s."""
    import psutil

    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if "ServeReplica:pangu:structure" in " ".join(process.info["cmdline"] or []):
            used = process.cpu_times()
            found[process.pid] = used.user + used.system
    return found


def found_again(application: Application, steps: int) -> None:
    """Layouts, then each of them in another style."""
    for layout in range(LAYOUTS):
        assert application.draw(100 + layout, steps).status_code == 200
    again = [application.draw(100 + layout, steps, texture={"guidance_scale": 2.0}) for layout in range(LAYOUTS)]
    share = sum(answer.json()["structure_cached"] for answer in again) / LAYOUTS
    report("replicas_find_layouts", share, 1.0, share == 1.0, layouts=LAYOUTS)


def scaling(application: Application, steps: int) -> None:
    load = Load(application, steps)
    with load.running(CROWD):
        up_s = wait_for(lambda: len(application.replicas()) == 2)
        time.sleep(2)
    rest = Load(application, steps)
    with rest.running(1):
        down_s = wait_for(lambda: len(application.replicas()) == 1)
    failed = load.failed + rest.failed
    facts = {"up_s": up_s, "down_s": down_s, "answers": load.answers + rest.answers, "first": failed[:1]}
    report("replicas_scale", len(failed), 0, not failed, **facts)


def restart(application: Application, steps: int) -> None:
    before, load = application.everybody(), Load(application, steps)
    with load.running(2):
        time.sleep(2)
        clock = time.perf_counter()
        application.run(SCALED)
        took_s = time.perf_counter() - clock
        time.sleep(2)
    stayed = len(before & application.everybody())
    facts = {"stayed": stayed, "answers": load.answers, "longest_pause_s": load.longest_pause_s, "took_s": took_s}
    report("replicas_restart", len(load.failed), 0, not load.failed and not stayed, **facts, first=load.failed[:1])


def main() -> None:
    import ray
    from ray import serve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, help="pair folder; default: an untrained pair of the tiny recipe")
    parser.add_argument("--steps", type=int, default=12)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pair = asked.pair or Path(scratch) / "pair"
        if asked.pair is None:
            save_pair(untrained_pair(tiny(), 0), pair)
        port = free_port()
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            application = Application(pair, f"http://127.0.0.1:{port}")
            application.run(TWO)
            same_bytes(application, asked.steps)
            found_again(application, asked.steps)
            restart(application, asked.steps)
            scaling(application, asked.steps)
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
