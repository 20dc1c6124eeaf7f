"""supervisord: its configuration, its start, and what it says about its programs over a Unix socket."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from pangu.errors import UserError
from pangu.stack.model import Stack
from pangu.stack.processes import ProcessRecord
from pangu.stack.profile import POSTGRES_URL
from pangu.stack.programs import DATABASE, Program, programs
from pangu.storage import Home, write_atomically

MARK = "PANGU_STACK_ID"
BLANK = "PANGU_BLANK"
"""supervisord finds a blank under this name, where none may stand in its configuration."""
STOP_S = 15
"""So long a program may take to end; then supervisord kills it."""

SUPERVISORD = """\
[supervisord]
logfile={logs}/supervisor.log
pidfile={runtime}/supervisor.pid
directory={project}
nocleanup=true

[unix_http_server]
file={runtime}/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command={command}
environment={environment}
autostart={autostart}
autorestart=true
startsecs=3
startretries={retries}
stopsignal={stop_signal}
{more}stopwaitsecs={patience}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


def write_configuration(stack: Stack) -> Path:
    """Write supervisord's configuration for all programs of the stack, and return its path."""
    home = Home(stack.home)
    home.logs.mkdir(parents=True, exist_ok=True)
    sections = [SUPERVISORD.format(**_quoted(logs=home.logs, runtime=stack.runtime, project=stack.project))]
    sections += [_section(program, home.logs) for program in programs(stack)]
    path = home.stack / "supervisord.conf"
    write_atomically(path, "".join(sections).encode())
    return path


def _section(program: Program, logs: Path) -> str:
    environment = ",".join(f'{name}="{value}"' for name, value in program.environment.items())
    fresh = () if program.is_outlived else (sys.executable, "-m", "pangu.stack.exec_fresh", program.name)
    command = shlex.join([*fresh, *program.command])
    log = str(logs / f"{program.name}.log").replace("%", "%%")  # expanded once more than everything else
    more = _quoted(user=program.user, directory=program.folder)
    return PROGRAM.format(
        autostart=str(program.starts_by_itself).lower(),
        retries=program.retries,
        patience=STOP_S,
        stop_signal=program.stop_signal,
        more="".join(f"{name}={value}\n" for name, value in more.items() if value),
        **_quoted(name=program.name, command=command, environment=environment, log=log),
    )


def _quoted(**values: object) -> dict[str, str]:
    """supervisord expands `%(name)s` in every value, strips blanks at both ends, and takes what follows a blank and a '#' or ';'
    for a comment."""
    doubled = {name: str(value).replace("%", "%%") for name, value in values.items()}
    return {name: re.sub(r"^ | $| (?=[#;])", f"%(ENV_{BLANK})s", value) for name, value in doubled.items()}


def start_supervisor(stack: Stack) -> ProcessRecord:
    """Start supervisord, detached from this terminal; it starts the programs.

    Raises:
        UserError: it refused its configuration.
    """
    configuration = write_configuration(stack)
    environment = {**os.environ, **stack.environment(), MARK: stack.stack_id, BLANK: " "}
    environment.pop(POSTGRES_URL, None)  # its password is not for jobs
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if started.returncode != 0:
        raise UserError(f"supervisord did not start: {(started.stderr or started.stdout).strip()}")
    pid_file = stack.runtime / "supervisor.pid"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if pid_file.is_file() and (text := pid_file.read_text().strip()) and reachable(stack):
            return ProcessRecord.of(int(text))
        time.sleep(0.05)
    raise UserError(f"supervisord did not answer within 20 s; see {Home(stack.home).logs / 'supervisor.log'}.")


def reachable(stack: Stack) -> bool:
    """Whether supervisord answers."""
    try:
        return bool(rpc(stack).getState())
    except OSError:
        return False


def rpc(stack: Stack) -> Any:
    """supervisord's XML-RPC interface (http://supervisord.org/api.html)."""
    socket = f"unix://{stack.runtime / 'supervisor.sock'}"
    transport = SupervisorTransport(None, None, serverurl=socket)
    # The address is not used: the transport goes through the socket.
    return cast(Any, xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)).supervisor


def stop_all(stack: Stack) -> None:
    """End every program: all at once, where shutdown would take them one by one, but the database behind those that use it."""
    names = [program.name for program in programs(stack) if program.name != DATABASE]
    for name in names:
        with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
            rpc(stack).stopProcess(name, False)
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline and any(program_states(stack)[name][1] for name in names):
        time.sleep(0.1)
    rpc(stack).stopAllProcesses(True)


def program_states(stack: Stack) -> dict[str, tuple[str, int]]:
    """State name (RUNNING, BACKOFF, FATAL, ...) and pid (0 if none) of every program."""
    return {info["name"]: (info["statename"], info["pid"]) for info in rpc(stack).getAllProcessInfo()}


def record_processes(stack: Stack) -> dict[str, ProcessRecord]:
    """The programs' processes as they are now."""
    return {name: ProcessRecord.of(pid) for name, (_, pid) in program_states(stack).items() if pid}
