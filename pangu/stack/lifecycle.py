"""`up` and `down`: from nothing to healthy servers, and back to nothing.

Knows the order of things; the command lines, supervision and checks are in the modules beside it.
"""

import os
import secrets
import shutil
import tempfile
import time
import uuid
import xmlrpc.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pangu
from pangu.errors import UserError
from pangu.file_lock import locked
from pangu.stack import backends, databases, health, supervision
from pangu.stack.automations import install_automations
from pangu.stack.deployments import are_deployed, create_work_pool, deploy_flows, flows_digest
from pangu.stack.flow_runs import catch_up, settle
from pangu.stack.model import Stack, path_of
from pangu.stack.ports import CUSTOMARY, POSTGRES, choose_ports
from pangu.stack.processes import end, family, marked
from pangu.stack.profile import Profile, ProfileName, choose
from pangu.stack.programs import mlflow_folder
from pangu.stack.start_here import write_start_here
from pangu.storage import Home, write_atomically

START_TIMEOUT_S = 600.0
"""A machine whose cores are busy needs minutes; a server that dies is noticed at once."""
RESTARTS = 2
Say = Callable[[str], None]


def up(
    home: Home,
    say: Say = print,
    customary_ports: bool = True,
    profile: ProfileName | None = None,
    upgrade: bool = False,
) -> Stack:
    """Start every part of the stack and wait until each answers; a stack that already runs is left alone,
    one whose `up` was killed half way is begun again.

    profile: None for the one that the home began with. upgrade: bring databases of an older version up to date.

    Raises:
        UserError: another `up` or `down` is at work in this home, the home is of another profile, something that the profile
            needs is missing, or a part did not start; the sentence names its log.
    """
    with locked(home.stack / "lock", f"Another `pangu up` or `pangu down` is at work in {home.root}; wait for it."):
        chosen = choose(home, profile)
        stack = Stack.load(home)
        if stack is not None and stack.is_complete:
            say(f"The stack of {home.root} is already up.")
            return stack
        if stack is not None:
            _end_everything(stack)
        project = find_project()
        with _ports_lock():
            stack = _describe(home, project, customary_ports, chosen)
            stack.save()
            try:
                backends.lay(stack, upgrade, say)
                return _start(stack, upgrade, say)
            except BaseException:
                _end_everything(stack)
                raise


def down(home: Home, say: Say = print) -> None:
    """End exactly what `up` started: the servers, Ray's and Prefect's children, and nothing else. Twice is once."""
    with locked(home.stack / "lock", f"Another `pangu up` or `pangu down` is at work in {home.root}; wait for it."):
        stack = Stack.load(home)
        if stack is None:
            say(f"No stack is running under {home.root}.")
            return
        _end_everything(stack)
        say(f"The stack of {home.root} is down.")


def find_project() -> Path:
    """The folder with `prefect.yaml` and `flows/`: the checkout that this package lies in, or the current folder.

    Raises:
        UserError: neither has them.
    """
    for folder in (Path(pangu.__file__).parents[1], Path.cwd()):
        if (folder / "prefect.yaml").is_file() and (folder / "flows").is_dir():
            return folder.absolute()
    raise UserError("No prefect.yaml with a flows/ folder was found; run `pangu up` in a checkout of PanGu.")


def _describe(home: Home, project: Path, customary_ports: bool, profile: Profile) -> Stack:
    token_path = home.stack / "ray_token"
    with suppress(FileExistsError):
        descriptor = os.open(token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    own_database = profile.name == "server" and not profile.postgres
    ports = choose_ports(customary_ports, CUSTOMARY | POSTGRES if own_database else CUSTOMARY)
    return Stack(
        profile=profile,
        database=backends.database_of(profile, ports.pop("postgres_port", None)),
        stack_id=uuid.uuid4().hex,
        home=home.root,
        project=project,
        runtime=Path(tempfile.mkdtemp(prefix="pangu-")),
        token_path=token_path,
        **ports,
    )


def _start(stack: Stack, upgrade: bool, say: Say) -> Stack:
    """Prefect, MLflow and Ray start side by side, behind PostgreSQL where they need it; the worker and the deployments as soon
    as Prefect answers."""
    mlflow_folder(stack).mkdir(exist_ok=True)
    stack = stack.model_copy(update={"supervisor": supervision.start_supervisor(stack)})
    stack.save()
    if stack.database is not None:
        _start_on_postgres(stack, upgrade, say)
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(_wait_until, stack, "mlflow", health.mlflow_answers, say)]
        waits.append(pool.submit(_wait_until, stack, "ray", health.ray_answers, say))
        waits.append(pool.submit(_wait_until, stack, "console", health.console_answers, say))
        waits.append(pool.submit(_start_prefect, stack, say))
    for wait in waits:
        wait.result()
    stack = stack.model_copy(update={"processes": supervision.record_processes(stack)})
    stack.save()
    return stack


def _start_on_postgres(stack: Stack, upgrade: bool, say: Say) -> None:
    assert stack.database is not None
    if stack.database.own:
        _wait_until(stack, "postgres", databases.answers, say)
    backends.open_databases(stack, upgrade, say)
    for program in ("prefect", "mlflow"):
        supervision.rpc(stack).startProcess(program, False)


def _start_prefect(stack: Stack, say: Say) -> None:
    _wait_until(stack, "prefect", health.prefect_answers, say)
    settle(stack, "CRASHED", "Its stack ended while it was under way; run it again, and it continues.")
    catch_up(stack)
    install_automations(stack)
    create_work_pool(stack)
    write_start_here(stack)
    supervision.rpc(stack).startProcess("worker", False)
    _deploy_flows(stack, say)
    _wait_until(stack, "worker", health.worker_is_online, say)


def _deploy_flows(stack: Stack, say: Say) -> None:
    """Tell Prefect of the flows, unless this home's server knows these already: that costs a core some ten seconds."""
    started, digest = time.monotonic(), flows_digest(stack.project)
    log, told = Home(stack.home).logs / "deploy.log", Home(stack.home).stack / "deployed.sha256"
    if told.is_file() and told.read_text() == digest and are_deployed(stack, stack.project):
        return
    deploy_flows(stack.project, {**stack.environment(), supervision.MARK: stack.stack_id}, log)
    write_atomically(told, digest.encode())
    say(f"flows deployed in {time.monotonic() - started:.0f} s")


def _wait_until(stack: Stack, program: str, answers: Callable[[Stack], bool], say: Say) -> None:
    """Wait until the program answers.

    Raises:
        UserError: it keeps ending, or it takes too long.
    """
    started = time.monotonic()
    log = Home(stack.home).logs / f"{program}.log"
    pids = set()
    while not answers(stack):
        state, pid = supervision.program_states(stack)[program]
        pids.add(pid)
        if state == "FATAL" or len(pids - {0}) > RESTARTS:
            raise UserError(f"{program} does not stay alive; see {log}.")
        if time.monotonic() - started > START_TIMEOUT_S:
            raise UserError(f"{program} did not answer within {START_TIMEOUT_S:.0f} s; see {log}.")
        time.sleep(0.25)
    say(f"{program} answers after {time.monotonic() - started:.0f} s")


def _end_everything(stack: Stack) -> None:
    """End reconciler and worker first, so that nothing new is started, then the rest, then whatever they left behind."""
    supervisor = stack.supervisor.find() if stack.supervisor else None
    known = family(supervisor) if supervisor else []
    known += [process for record in stack.processes.values() if (process := record.find())]
    if supervisor is not None:
        with suppress(Exception):  # whatever it cannot say or do, the processes are ended below
            for program in ("reconciler", "caretaker", "worker"):
                with suppress(xmlrpc.client.Fault):  # it does not run, or an older stack has none
                    supervision.rpc(stack).stopProcess(program, True)
            known += family(supervisor)
            settle(stack, "CANCELLED", "`pangu down` ended it; run it again, and it continues.")
            supervision.stop_all(stack)
            supervision.rpc(stack).shutdown()
        with suppress(Exception):
            supervisor.wait(timeout=30)
    end([*known, *marked(supervision.MARK, stack.stack_id)])
    _keep_ray_logs(stack)
    shutil.rmtree(stack.runtime, ignore_errors=True)
    path_of(Home(stack.home)).unlink(missing_ok=True)


def _keep_ray_logs(stack: Stack) -> None:
    """Ray's own logs outlive its session, until the next stack of this home ends."""
    logs = stack.runtime / "ray" / "session_latest" / "logs"
    kept = Home(stack.home).logs / "ray"
    if logs.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError, shutil.Error):
            shutil.copytree(logs, kept, symlinks=True)


def _ports_lock() -> AbstractContextManager[int]:
    """Between choosing a port and listening on it, no other stack of this person chooses."""
    return locked(Path(tempfile.gettempdir()) / f"pangu-ports-{os.getuid()}.lock", wait_s=None)
