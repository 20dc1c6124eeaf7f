"""Ports of the loopback interface: the customary one where it is free, any free one otherwise."""

import contextlib
import itertools
import random
import socket
from collections.abc import Mapping

from pangu.stack.model import LOOPBACK

CUSTOMARY = {
    "prefect_port": 4200,
    "mlflow_port": 5000,
    "ray_port": 6379,
    "ray_client_port": 10001,
    "ray_dashboard_port": 8265,
    "serve_port": 8000,
    "console_port": 8080,
}
POSTGRES = {"postgres_port": 5432}
"""Only where the stack runs the database itself."""

OTHERS = range(20_000, 32_768)
"""What replaces a customary port. Ray's workers use those below; the kernel lends those above to whoever connects (RFC 6056), so
one of them may be gone between this choice and the start of the part, which for `serve_port` is the first deployment."""


def choose_ports(customary: bool = True, wanted: Mapping[str, int] = CUSTOMARY) -> dict[str, int]:
    """A port for every part that is wanted. All sockets are held until the last one is chosen, so no two parts get the same."""
    with contextlib.ExitStack() as held:
        return {name: _reserve(held, [port] if customary else []) for name, port in wanted.items()}


def free_port() -> int:
    """One that nothing has, and that is not lent to others either before it is used."""
    with contextlib.ExitStack() as held:
        return _reserve(held, [])


def _reserve(held: contextlib.ExitStack, first: list[int]) -> int:
    # Shuffled by the system's own randomness: two stacks that start together do not try the same ones.
    for candidate in itertools.chain(first, random.SystemRandom().sample(OTHERS, len(OTHERS))):
        listener = held.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind((LOOPBACK, candidate))
            # Another socket that is bound but not listening would not be in the way of bind alone.
            listener.listen(1)
            return listener.getsockname()[1]
    raise OSError("no free port on the loopback interface")


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
