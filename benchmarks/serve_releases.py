"""Releases that change, and replicas that die, while clients draw. One JSON line for each claim, all in one run.

A stack of its own (Prefect, MLflow, Ray), three pairs in its registry, and the commands of users: `pangu deploy` of another
structure half, of another texture half, and of both; `pangu rollback`; then `kill -9` of a replica of each pool. Every answer is
compared with what its release draws when nothing else happens, so a picture made of two releases would show.

    python benchmarks/serve_releases.py [--steps 20] [--clients 2]
"""

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from pangu.config import ROLES
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import recipe
from pangu.registry import release
from pangu.stack import Stack, down, up
from pangu.storage import Home, write_json

PAIR_OF_REPLICAS = {"threads": 1, "replicas": 2}
SETTINGS = {"layout": "pools", "max_in_flight": 16, "structure": {"threads": 1}, "texture": {"threads": 1}}
# For replicas that die: another one beside each, and no cache, so that every request has something to lose in both pools.
TWO_EACH = {"max_in_flight": 16, "cache_bytes": 0, "structure": PAIR_OF_REPLICAS, "texture": PAIR_OF_REPLICAS}
CHANGES = ((2, "structure alone"), (3, "texture alone"), (1, "both halves"))
POOLS = ("structure", "texture")
BACK_S = 10.0
CALM_S = 2.0


class Service:
    """The application under test, what each registered version draws in calm, and the processes of its replicas."""

    def __init__(self, stack: Stack, url: str, steps: int) -> None:
        self.stack, self.url, self._steps = stack, url, steps
        self._client = httpx.Client(timeout=300, limits=httpx.Limits(max_connections=64))
        self.calm: dict[int, np.ndarray] = {}

    def draw(self) -> httpx.Response:
        body = {"prompt": "a red apple", "seed": 5, "num_inference_steps": self._steps}
        return self._client.post(f"{self.url}/v1/images/generations", json=body)

    def remember(self) -> int:
        """The version that answers now, and keep what it draws in calm."""
        version, picture = read(self.draw())
        self.calm[version] = picture
        return version

    def retried(self) -> float:
        lines = self._client.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("pangu_retried_total "))

    def replicas(self, pool: str) -> list[psutil.Process]:
        """Processes of one pool of this stack."""
        title, found = f"ServeReplica:pangu:{pool}", []
        for process in psutil.process_iter(["cmdline"]):
            if title in " ".join(process.info["cmdline"] or []):
                found += [process] if any(each.pid == self.stack.supervisor.pid for each in process.parents()) else []
        return found


class Load:
    """Clients that draw without pause: what failed, what no release drew, and the longest time without an answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over, self._lock, self._last = threading.Event(), threading.Lock(), time.perf_counter()
        self.failed: list[str] = []
        self.drawn: list[tuple[int, np.ndarray]] = []
        self.longest_pause_s = 0.0
        self.first_answer: dict[int, float] = {}

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        with ThreadPoolExecutor(clients) as pool:
            jobs = [pool.submit(self._ask) for _ in range(clients)]
            try:
                time.sleep(CALM_S)
                yield
                time.sleep(CALM_S)
            finally:
                self._over.set()
            for job in jobs:
                job.result()

    def _ask(self) -> None:
        while not self._over.is_set():
            answer = self._service.draw()
            with self._lock:
                now = time.perf_counter()
                self.longest_pause_s, self._last = max(self.longest_pause_s, now - self._last), now
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")
                    continue
                version, picture = read(answer)
                self.first_answer.setdefault(version, now)
                self.drawn.append((version, picture))

    def mixed(self) -> int:
        """Pictures that differ from what their release draws in calm by more than the rounding of a shared call."""
        return sum(bool(np.abs(picture - self._service.calm[version]).max() > 1) for version, picture in self.drawn)


def read(answer: httpx.Response) -> tuple[int, np.ndarray]:
    """(version, 8-bit pixels as int) of an answer."""
    body = answer.json()
    file = base64.b64decode(body["data"][0]["b64_json"])
    return body["release"]["pair_version"], np.asarray(Image.open(io.BytesIO(file))).astype(int)


def report(name: str, value: float, goal: float, holds: bool, **facts: Any) -> None:
    rounded = {key: round(fact, 3) if isinstance(fact, float) else fact for key, fact in facts.items()}
    print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "holds": holds, **rounded}), flush=True)


def swaps(service: Service, clients: int) -> None:
    """Each half alone, then both at once, by `pangu deploy`."""
    failed, mixed, answers, pauses, took = [], 0, 0, [], []
    for version, _ in CHANGES:
        load = Load(service)
        with load.running(clients):
            clock = time.perf_counter()
            pangu(service.stack, "deploy", "--pair-version", str(version))
            took.append(time.perf_counter() - clock)
        failed, mixed, answers = failed + load.failed, mixed + load.mixed(), answers + len(load.drawn)
        pauses.append(load.longest_pause_s)
        assert {seen for seen, _ in load.drawn} >= {version}, "the load ended before the new release answered"
    facts = {"failed": len(failed), "mixed": mixed, "answers": answers, "first": failed[:1]}
    lists = {"pauses_s": [round(each, 2) for each in pauses], "took_s": [round(each, 1) for each in took]}
    changes = [what for _, what in CHANGES]
    report("serve_swap", len(failed) + mixed, 0, not failed and not mixed, **facts, changes=changes, **lists)


def rollback(service: Service, clients: int) -> None:
    """Champion 3 is served and `previous` is 2: seconds from the command's start to the first answer of 2."""
    pangu(service.stack, "deploy", "--alias", "champion")
    before, load = service.remember(), Load(service)
    with load.running(clients):
        clock = time.perf_counter()
        after = pangu(service.stack, "rollback")["pair_version"]
        took_s = time.perf_counter() - clock
    assert after != before
    first_s = load.first_answer[after] - clock
    failed = len(load.failed) + load.mixed()
    facts = {"failed": failed, "answers": len(load.drawn), "command_s": took_s, "pause_s": load.longest_pause_s}
    report("serve_rollback", first_s, BACK_S, first_s <= BACK_S and not failed, **facts)


def killed(service: Service, clients: int) -> None:
    """`kill -9` of the busier of two replicas of each pool in turn: the requests in it are drawn again, and none is lost."""
    lost, facts = 0, {}
    service.remember()
    for pool in POOLS:
        load, before = Load(service), service.retried()
        idle = {each: worked_s(each) for each in service.replicas(pool)}
        assert len(idle) == 2
        with load.running(clients):
            # Requests for one layout prefer one replica: that one has them in it.
            max(idle, key=lambda each, idle=idle: worked_s(each) - idle[each]).kill()
            wait_for(lambda pool=pool, idle=idle: not idle.keys() >= {*service.replicas(pool)})
        lost += len(load.failed) + load.mixed()
        retried = int(service.retried() - before)
        facts[pool] = {
            "answers": len(load.drawn),
            "retried": retried,
            "longest_pause_s": round(load.longest_pause_s, 2),
        }
    report(
        "serve_killed", lost, 0, lost == 0 and all(each["retried"] for each in facts.values()), open=clients, **facts
    )


def worked_s(process: psutil.Process) -> float:
    """Its processor time so far."""
    used = process.cpu_times()
    return used.user + used.system


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def pangu(stack: Stack, *arguments: str) -> dict[str, Any]:
    """The outcome of a command, run as a user of the stack would."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "pangu", *arguments, "--result", str(result)]
        subprocess.run(
            command, env={**os.environ, **stack.environment()}, stdout=subprocess.DEVNULL, check=True, timeout=400
        )
        return json.loads(result.read_bytes())


def register(folder: Path) -> None:
    """Versions 1, 2 and 3: 2 differs from 1 in its structure half, and 3 from 2 in its texture half."""
    pair, other = untrained_pair(recipe("demo"), 0), untrained_pair(recipe("demo"), 7)
    for number, changed in enumerate((None, *ROLES), start=1):
        if changed is not None:
            pair.register_modules(**{changed: other.components[changed]})
        place = folder / str(number)
        save_pair(pair, place / "pair")
        for role in ROLES:
            pair.components[role].save_pretrained(place / role)
            pair.contract(role).save(place / role)
        evaluation = {
            "pair_id": str(number),
            "pair": str(place / "pair"),
            "metrics": {},
            "protocol": "none",
            "protocol_hash": "0",
        }
        assert release(place / "pair", *(place / role for role in ROLES), evaluation).pair_version == number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home, settings = Home(Path(scratch) / "home"), Path(scratch) / "settings.json"
        stack = up(home, customary_ports=False)
        try:
            os.environ |= stack.environment()
            register(Path(scratch))
            write_json(settings, SETTINGS)
            url = pangu(stack, "deploy", "--pair-version", "1", "--settings", str(settings))["url"]
            service = Service(stack, url, asked.steps)
            for version in (3, 2, 1):
                pangu(stack, "deploy", "--pair-version", str(version))
                assert service.remember() == version
            assert len({picture.tobytes() for picture in service.calm.values()}) == 3
            swaps(service, asked.clients)
            rollback(service, asked.clients)
            write_json(settings, TWO_EACH)
            pangu(stack, "deploy", "--alias", "champion", "--settings", str(settings))
            killed(service, 2 * asked.clients)
        finally:
            down(home)


if __name__ == "__main__":
    main()
