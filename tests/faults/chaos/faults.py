"""The faults: each is done to the running stack, and says what it did once it is known to have happened.

The work under way and what must hold afterwards are in the modules beside it.
"""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from pangu.stack import Stack
from pangu.stack.model import LOOPBACK
from pangu.stack.processes import alive, family, marked
from pangu.stack.supervision import MARK, program_states
from pangu.storage import Home

PATIENCE_S = 10.0
CHUNK = 1 << 20
LARGE_DISK = 4 << 30
"""A disk of so many bytes is nobody's toy, and is not filled."""


@dataclass(frozen=True)
class Fault:
    """What can be done to a stack. `inject` returns a sentence once it is done, None where there is nothing to do it to."""

    name: str
    inject: Callable[[Stack, Random], str | None]
    weight: float = 1.0


class Broken(AssertionError):
    """A fault was done, and a promise about what happens at once was broken."""


def by_words(*words: str) -> Callable[[Stack], list[psutil.Process]]:
    """Every process of the stack whose command line holds all of the words."""

    def find(stack: Stack) -> list[psutil.Process]:
        return [process for process in marked(MARK, stack.stack_id) if all(word in line(process) for word in words)]

    return find


def by_program(name: str) -> Callable[[Stack], list[psutil.Process]]:
    """The supervised program itself, and the processes of its own that it started and that carry its work."""

    def find(stack: Stack) -> list[psutil.Process]:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            _, pid = program_states(stack)[name]
            return [psutil.Process(pid)] if pid else []
        return []

    return find


def line(process: psutil.Process) -> str:
    """The command line; empty for one that is gone."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


def killing(find: Callable[[Stack], Sequence[psutil.Process]]) -> Callable[[Stack, Random], str | None]:
    """`kill -9` of one of the processes."""

    def inject(stack: Stack, rng: Random) -> str | None:
        found = sorted(find(stack), key=lambda process: process.pid)
        if not found:
            return None
        chosen = rng.choice(found)
        what = line(chosen)
        return f"killed {chosen.pid}: {what[:80]}" if kill([chosen]) else None

    return inject


def kill(processes: Sequence[psutil.Process]) -> bool:
    """Whether at least one was there and all are gone now."""
    hit = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            hit += 1
    deadline = time.monotonic() + PATIENCE_S
    while any(alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    return hit > 0 and not any(alive(process) for process in processes)


def supervisor(stack: Stack) -> list[psutil.Process]:
    found = stack.supervisor.find() if stack.supervisor else None
    return [found] if found else []


def kill_everything(stack: Stack, rng: Random) -> str | None:
    """As if the machine had lost its power: every process of the stack at once."""
    processes = marked(MARK, stack.stack_id)
    return f"killed all {len(processes)} processes" if kill(processes) else None


def fill_disk(stack: Stack, rng: Random) -> str | None:
    """Not a byte is left on the home's disk for some seconds, if that is a small one."""
    if shutil.disk_usage(stack.home).total > LARGE_DISK:
        return None
    ballast, seconds = stack.home / ".ballast", rng.uniform(2, 8)
    written = 0
    try:
        with ballast.open("wb", buffering=0) as file:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                try:
                    written += file.write(b"\0" * CHUNK)
                except OSError:  # full: and so it stays, also when somebody makes room
                    with contextlib.suppress(OSError):
                        written += file.write(b"\0" * 4096)
                    time.sleep(0.05)
            full = os.statvfs(stack.home).f_bavail == 0
    finally:
        ballast.unlink(missing_ok=True)
    return f"{written >> 20} MiB filled the disk for {seconds:.0f} s" if full else None


def lock_database(path: Callable[[Home], Path]) -> Callable[[Stack, Random], str | None]:
    """Nobody else can read or write the database for some seconds, as while it is restarted or restored."""

    def inject(stack: Stack, rng: Random) -> str | None:
        database, seconds = path(Home(stack.home)), rng.uniform(4, 15)
        with closing(sqlite3.connect(database, timeout=PATIENCE_S, isolation_level=None)) as connection:
            try:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return None
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        return f"{database.name} was locked for {seconds:.0f} s"

    return inject


def take_port(program: str, port: Callable[[Stack], int]) -> Callable[[Stack, Random], str | None]:
    """The server is killed, and a stranger listens on its port before it is back."""

    def inject(stack: Stack, rng: Random) -> str | None:
        (server,) = by_program(program)(stack) or [None]
        if server is None:
            return None
        seconds, stranger = rng.uniform(5, 20), socket.socket()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with stranger:
            kill(family(server))
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    stranger.bind((LOOPBACK, port(stack)))
                    stranger.listen(1)
                    time.sleep(seconds)
                    return f"port {port(stack)} of {program} was taken for {seconds:.0f} s"
                time.sleep(0.02)
        return None

    return inject


def freeze(find: Callable[[Stack], Sequence[psutil.Process]]) -> Callable[[Stack, Random], str | None]:
    """The process stands still for some seconds, as on a machine that swaps."""

    def inject(stack: Stack, rng: Random) -> str | None:
        found = sorted(find(stack), key=lambda process: process.pid)
        if not found:
            return None
        chosen, seconds = rng.choice(found), rng.uniform(3, 15)
        with contextlib.suppress(psutil.NoSuchProcess):
            chosen.send_signal(signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                chosen.send_signal(signal.SIGCONT)
            return f"stopped {chosen.pid} for {seconds:.0f} s: {line(chosen)[:80]}"
        return None

    return inject


PREFECT_DB = lock_database(lambda home: home.stack / "prefect" / "prefect.db")
MLFLOW_DB = lock_database(lambda home: home.stack / "mlflow" / "mlflow.db")

FAULTS = (
    Fault("flow process", killing(by_words("prefect.engine"))),
    Fault("Prefect server", killing(by_words("prefect server start"))),
    Fault("Prefect worker", killing(by_words("prefect worker start"))),
    Fault("MLflow", killing(by_program("mlflow"))),
    Fault("Ray head", killing(by_words("pangu.stack.ray_head"))),
    Fault("Ray gcs_server", killing(by_words("gcs_server"))),
    Fault("Ray raylet", killing(by_words("raylet/raylet"))),
    Fault("Ray dashboard", killing(by_words("dashboard/dashboard.py"))),
    Fault("stage command", killing(by_words("-m pangu", "--result"))),
    Fault("Ray job supervisor", killing(by_words("ray::JobSupervisor"))),
    Fault("train controller", killing(by_words("ray::TrainController"))),
    Fault("train worker", killing(by_words("ray::RayTrainWorker"))),
    Fault("serve replica", killing(by_words("ray::ServeReplica"))),
    Fault("serve controller", killing(by_words("ray::ServeController"))),
    Fault("serve proxy", killing(by_words("ray::ProxyActor"))),
    Fault("img2dataset", killing(by_words("pangu.data.ingest.guarded_download"))),
    Fault("supervisord", killing(supervisor), 0.5),
    Fault("everything", kill_everything, 0.5),
    Fault("full disk", fill_disk),
    Fault("Prefect database away", PREFECT_DB),
    Fault("MLflow database away", MLFLOW_DB),
    Fault("port of MLflow taken", take_port("mlflow", lambda stack: stack.mlflow_port)),
    Fault("port of Prefect taken", take_port("prefect", lambda stack: stack.prefect_port)),
    Fault("Prefect server frozen", freeze(by_words("prefect server start"))),
)
