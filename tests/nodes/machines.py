"""A Ray node on each machine of a `Network`, started again when it ends, as a service manager would; and what each one runs."""

import os
import secrets
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.nodes.network import INTERFACE, Network

HEAD = "head"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
OBJECT_STORE_BYTES = 100_000_000
POLL_S = 1.0
OF_RAY = ("IDLE", "Agent", "JobSupervisor", "ActorLocationTracker", "_Stats", "_Autoscaling", "_ray_internal")
"""Of the names that Ray's processes give themselves: what is Ray's own."""


class Machines:
    """The Ray cluster. `folder` is seen by all machines, as a network drive would be."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._wanted: set[str] = set()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.starts: dict[str, int] = defaultdict(int)
        (folder / "token").write_text(secrets.token_hex(32))
        (folder / "logs").mkdir(exist_ok=True)
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For every process that belongs to the cluster or talks to it."""
        head = self.network.addresses[HEAD]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PANGU_"))}
        return kept | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PANGU_HOME": str(self.folder / "home"),
            "RAY_ADDRESS": f"{head}:{GCS_PORT}",
            "RAY_API_SERVER_ADDRESS": f"http://{head}:{DASHBOARD_PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            # The machines share one host name, which says nothing of their addresses: gloo is told where its peers are.
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "NO_PROXY": "*",
            "no_proxy": "*",
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "1",
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }

    def start(self, name: str) -> None:
        """From now on there is a Ray node on this machine."""
        with self._lock:
            self._wanted.add(name)
            self._start(name)

    def kill(self, name: str) -> int:
        """`kill -9` of everything on a machine, which stays off until it is started; returns how many processes ended."""
        with self._lock:
            self._wanted.discard(name)
            killed = self.network.kill(name)
            self._processes.pop(name).wait()
        return killed

    def close(self) -> None:
        self._closing.set()
        for name in list(self._processes):
            with suppress(KeyError):
                self.kill(name)

    def _start(self, name: str) -> None:
        address = self.network.addresses[name]
        own = (
            *("--head", "--port", str(GCS_PORT), "--dashboard-host", address, "--dashboard-port", str(DASHBOARD_PORT)),
            *("--temp-dir", str(self.folder / "ray")),
        )
        other = ("--address", f"{self.network.addresses[HEAD]}:{GCS_PORT}")
        # A machine sees its own processes alone: a head that found its old cluster's would not start.
        alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = self.network.inside(
            name, *alone, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address", address,
            *(own if name == HEAD else other), "--num-cpus", "1", "--object-store-memory", str(OBJECT_STORE_BYTES),
            "--disable-usage-stats",
        )  # fmt: skip
        self.starts[name] += 1
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def _keep(self) -> None:
        """Start nodes again that ended, and note what runs where."""
        while not self._closing.wait(POLL_S):
            with self._lock:
                for name in self._wanted:
                    process = self._processes.get(name)
                    if process is not None and process.poll() is not None:
                        self.network.kill(name)
                        self._start(name)
            for name in self.network.addresses:
                self.seen[name] |= self.titles(name)

    def titles(self, name: str) -> set[str]:
        """What Ray's workers on a machine are doing, by the names that they give themselves."""
        found = set()
        for pid in self.network.processes(name):
            with suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                if title.startswith("ray::") and not any(word in title for word in OF_RAY):
                    found.add(title.removeprefix("ray::").split("(")[0].split(".")[0].strip())
        return found

    def where(self, title: str) -> list[str]:
        """The machines on which a worker of that name runs now."""
        return [name for name in self.network.addresses if any(title in one for one in self.titles(name))]


def wait_until(what: str, holds: Callable[[], bool], patience_s: float) -> float:
    """Seconds until `holds()`; what it raises counts as not yet."""
    began = time.monotonic()
    while time.monotonic() - began < patience_s:
        with suppress(Exception):
            if holds():
                return time.monotonic() - began
        time.sleep(POLL_S)
    raise TimeoutError(f"{what}: not within {patience_s:g} s")
