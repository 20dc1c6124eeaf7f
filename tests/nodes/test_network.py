"""The machines of a network reach each other, a cut one is alone until it is healed, and all of it is gone afterwards."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.nodes.network import HUB, Network, is_private, private

SERVER = "import socket; s = socket.create_server(('0.0.0.0', 7)); print('up', flush=True)\nwhile True: s.accept()[0].close()"
LIMIT_S = 60


def reaches(network: Network, name: str, address: str) -> bool:
    script = f"import socket; socket.create_connection(('{address}', 7), 1)"
    return subprocess.run(network.inside(name, sys.executable, "-c", script), stderr=subprocess.DEVNULL).returncode == 0


def inside() -> None:
    """Runs in the private namespaces."""
    network = Network(["one", "two"])
    server = subprocess.Popen(network.inside("two", sys.executable, "-c", SERVER), stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"up\n"
    two = network.addresses["two"]
    assert reaches(network, "one", two)
    assert not reaches(network, "one", HUB)  # nobody listens there
    network.cut("two")
    assert not reaches(network, "one", two)
    network.heal("two")
    until = time.monotonic() + 20
    while not reaches(network, "one", two):
        assert time.monotonic() < until
    assert network.kill("two") == 1 and not network.processes("two")
    server.wait()
    subprocess.Popen(network.inside("one", "sleep", "777"))  # left behind on purpose


@pytest.fixture
def _namespaces() -> None:
    if subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a network of his own")


def test_machines_reach_each_other_unless_cut_and_nothing_is_left(_namespaces: None) -> None:
    assert private("tests.nodes.test_network", [], LIMIT_S) == 0
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if cmdline(path) == b"sleep\x00777\x00"]
    assert not left


def cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__" and is_private():
    inside()
