"""Processes: remembered so that a recycled pid is never taken for them, found by a mark in their environment, ended."""

import contextlib
import os
from collections.abc import Iterable

import psutil

from pangu.config import Frozen


class ProcessRecord(Frozen):
    """A process id together with the moment the process began, which no later process shares."""

    pid: int
    started: float
    """Seconds since the epoch, as the kernel tells it."""

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.started and alive(process):
                return process
        return None


def alive(process: psutil.Process) -> bool:
    """A zombie has ended; it only waits for its parent to notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def family(process: psutil.Process) -> list[psutil.Process]:
    """`process` and everything it started, directly or not."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def marked(name: str, value: str, prefix: bool = False) -> list[psutil.Process]:
    """Every living process that was started with `name=value` in its environment, whatever became of its parents.

    A child inherits the mark through new sessions and process groups. This process itself is never among them.
    With `prefix`, values that begin with `value` count too.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid == os.getpid():
                continue
            mark = process.environ().get(name, "")
            if (mark == value or (prefix and mark.startswith(value))) and alive(process):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], patience_s: float = 5.0) -> None:
    """Ask the processes to end, wait up to `patience_s` seconds, and kill those that did not.

    psutil compares start times before it sends a signal, so a recycled pid is left alone.
    """
    living = [process for process in processes if alive(process)]
    for act, patience in ((psutil.Process.terminate, patience_s), (psutil.Process.kill, 5.0)):
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
        _, living = psutil.wait_procs(living, timeout=patience)
        living = [process for process in living if alive(process)]
