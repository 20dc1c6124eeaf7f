"""Machines with addresses of their own on one box: network namespaces, joined by a bridge that nobody outside sees.

Everything, the bridge too, lives in private namespaces of one process, so the system takes it all away when that process ends,
however it ends. Linux, with util-linux and iproute2; needs no root where user
namespaces are allowed.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SUBNET = "10.77.0"
HUB = f"{SUBNET}.254"
"""This process's own address: where the web server with the images, and whoever starts flows, live."""
INTERFACE = "eth0"
INSIDE = "PANGU_NODES_INSIDE"


def private(module: str, arguments: list[str], limit_s: float) -> int:
    """Run `python -m module` with private network, mounts and processes; all of it ends with it, or after `limit_s`."""
    alone = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        alone += ["--user", "--map-root-user"]
    # The shell is the first process, which collects what others left behind; /run holds the names of namespaces.
    script = 'mount -t tmpfs tmpfs /run && { "$@" & wait $!; }'
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        ["timeout", "--kill-after=5", str(limit_s), *alone, "sh", "-c", script, "sh", *command],
        env={**os.environ, INSIDE: "1"},
    ).returncode


def is_private() -> bool:
    return bool(os.environ.get(INSIDE))


def ip(*arguments: str) -> str:
    """`ip ARGUMENTS`; raises with what it said if it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Namespaces by name, each with one interface and an address, and a bridge between them. Only for private ones."""

    def __init__(self, names: list[str]) -> None:
        assert is_private()
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, start=1)}
        ip("link", "set", "lo", "up")
        ip("link", "add", "name", "bridge0", "type", "bridge")
        ip("address", "add", f"{HUB}/24", "dev", "bridge0")
        ip("link", "set", "bridge0", "up")
        for name, address in self.addresses.items():
            ip("netns", "add", name)
            ip("link", "add", self._cable(name), "type", "veth", "peer", "name", INTERFACE, "netns", name)
            ip("link", "set", self._cable(name), "master", "bridge0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")

    def _cable(self, name: str) -> str:
        return f"to-{name}"

    def inside(self, name: str, *command: str) -> list[str]:
        """The command line that runs `command` on a machine."""
        return ["ip", "netns", "exec", name, *command]

    def cut(self, name: str) -> None:
        """Pull the cable of a machine."""
        ip("link", "set", self._cable(name), "down")

    def heal(self, name: str) -> None:
        ip("link", "set", self._cable(name), "up")

    def processes(self, name: str) -> list[int]:
        """Of a machine."""
        namespace, found = Path(f"/run/netns/{name}").stat().st_ino, []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "ns" / "net").stat().st_ino == namespace:
                    found.append(int(process.name))
        return found

    def kill(self, name: str) -> int:
        """`kill -9` of everything on a machine; returns how many processes that were."""
        killed = set[int]()
        while found := self.processes(name):  # a killed process is seen until it has ended
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        return len(killed)
