"""Running a `pangu` command somewhere else: as a Ray Job on a cluster, or as a process of its own beside the caller.

Owns submission, following, stopping and the translation of a failed command into an error. Talks to Ray over HTTP only: it
never joins a cluster.
"""

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

from pangu.compatibility import check_server
from pangu.errors import UserError
from pangu.progress import FORMAT, Reporter, parse_progress
from pangu.ray_token import headers
from pangu.retrying import VARIABLE as PATIENCE_VARIABLE
from pangu.retrying import retrying
from pangu.stack.certificates import trusted
from pangu.stack.processes import end, marked
from pangu.storage import read_json

if TYPE_CHECKING:
    from ray.job_submission import JobInfo, JobSubmissionClient
    from ray.util.state.common import NodeState

PROGRAM = "pangu"
"""The Python module that is run."""
MARK = "PANGU_COMMAND"
"""A command that runs as a process carries its id under this name, and so does everything that it starts."""
BAD_INPUT = 2
"""Exit code of a command that refuses its input with one sentence."""
SENTENCE = "pangu: "
SHARED_VARIABLES = (
    "PANGU_HOME", "PANGU_TABLES", "PANGU_SERVE_PORT", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_REGION",
    "OPENAI_BASE_URL",
)  # fmt: skip
"""What a command on another node needs to know; Ray brings its own variables. Keys are none of them, for Ray's pages show all."""
ON_A_GPU = ("evaluate", "pair-matrix", "gate")
"""Commands whose own process computes with networks. `encode` and `train` ask for their workers themselves, `prepare` computes on
CPU cores."""
MAX_ATTEMPTS = 20
HEAD_PATIENCE_S = 300.0
"""How long Ray's head may be away before the command that it ran counts as failed."""
WAITING = {PATIENCE_VARIABLE: "120", FORMAT: "json"}
"""What a command is told: how many seconds it waits for a server that is being restarted, and who reads its progress."""
_stopped: set[str] = set()
"""What this process has stopped is not started again by a thread that still waits for it."""

Log = Callable[[str], None]
Answer = TypeVar("Answer")


class CommandFailed(RuntimeError):
    """A command ended badly without blaming its input, so that trying again may help."""


class HeadAway(Exception):
    """Ray's head does not answer at this moment."""


class CommandStopped(Exception):
    """Someone stopped the job, so nobody should start it again by himself."""


def run_as_job(
    arguments: Sequence[str], job_id: str, result: Path, report: Reporter, log: Log, called: str = ""
) -> Any:
    """Run `pangu ARGUMENTS --result RESULT` as a Ray Job and wait for it.

    Asking again with the same `job_id` finds the job that runs or has succeeded; only a failure starts another one.
    called: what people read of it, in the job's metadata.

    Returns:
        The outcome that the command left in `result`, as plain JSON values.

    Raises:
        UserError: the command refused its input; says the command's own sentence.
        CommandStopped: someone stopped the job.
        CommandFailed: anything else went wrong.
    """
    _check_wanted(job_id)
    client = connect(HEAD_PATIENCE_S)
    submission_id = attach_or_submit(client, arguments, job_id, result, log, called)
    last = _watch(follow(client, submission_id), report, log)
    info = answer(lambda: client.get_job_info(submission_id), submission_id)
    if info.status == "STOPPED":
        raise CommandStopped(f"`pangu {' '.join(arguments)}` was stopped.")
    if info.status != "SUCCEEDED":
        raise _failure(arguments, info.driver_exit_code, last or [info.message or str(info.status)])
    return read_json(result)


def run_as_process(
    arguments: Sequence[str], job_id: str, result: Path, report: Reporter, log: Log, called: str = ""
) -> Any:
    """Run `pangu ARGUMENTS --result RESULT` as a process of its own group and wait for it.

    Leaving in any way, also by a signal's exception, ends the command and everything that it started.
    Returns and raises what `run_as_job` does.
    """
    _check_wanted(job_id)
    result.unlink(missing_ok=True)  # what an earlier command left says nothing of this one
    command = [sys.executable, "-m", PROGRAM, *arguments, "--result", str(result)]
    environment = {**os.environ, **WAITING, MARK: job_id}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        last = _watch(process.stdout, report, log)
        code = process.wait()
    finally:
        end(marked(MARK, job_id))
        process.wait()
    # Whoever stopped it from another thread of this process may have taken its exit code, which then reads as 0.
    if code != 0 or not result.is_file():
        raise _failure(arguments, code, last)
    return read_json(result)


def connect(patience_s: float = 0.0) -> "JobSubmissionClient":
    """A client of the job server that `RAY_API_SERVER_ADDRESS` names, with the token that `RAY_AUTH_TOKEN_PATH` names.

    One that does not answer is waited for so many seconds.

    Raises:
        UserError: no address is set, nobody answers there, or it is a server that refuses our token or is too old.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    address = server_address()
    try:
        client = retrying(lambda: JobSubmissionClient(address, headers=headers()), (ConnectionError,), patience_s)
    except ConnectionError as error:
        raise UserError(f"No Ray job server answers at {address}; start it, e.g. with `pangu up`.") from error
    except AuthenticationError as error:
        raise UserError(
            f"The Ray job server at {address} refuses this token; check RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN."
        ) from error
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(
            f"What answers at {address} is no Ray job server ({why}); check RAY_API_SERVER_ADDRESS."
        ) from error
    check_server("ray", address, client._server_ray_version or "")
    return client


def server_address() -> str:
    """The job server's.

    Raises:
        UserError: no address is set.
    """
    address = os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise UserError("RAY_API_SERVER_ADDRESS is not set; start the stack with `pangu up`, or name a Ray job server.")
    return address


def living(address: str, headers: Mapping[str, str]) -> list[str]:
    """Submission ids of the jobs that Ray has not ended. Its own client would be imported for two seconds to ask this.

    address: of the job server. headers: with the token that it wants.

    Raises:
        UserError: it does not answer, refuses, or is another server.
    """
    try:
        answered = httpx.get(f"{address.rstrip('/')}/api/jobs/", headers=headers, timeout=10, verify=trusted())
        known = [(job["submission_id"], job["status"]) for job in answered.raise_for_status().json()]
    except (httpx.HTTPError, ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).splitlines()[:1])[:160]
        raise UserError(
            f"The Ray job server at {address} does not say which jobs run ({why}); see `pangu status`."
        ) from error
    return [name for name, status in known if name and status in ("PENDING", "RUNNING")]


def attach_or_submit(
    client: "JobSubmissionClient", arguments: Sequence[str], job_id: str, result: Path, log: Log, called: str = ""
) -> str:
    """The submission id of the attempt at `job_id` that runs or has succeeded; a new attempt if there is none.

    Where a node has a GPU, a command of `ON_A_GPU` waits for one and runs beside it.
    """
    shared = {name: os.environ[name] for name in SHARED_VARIABLES if name in os.environ}
    variables, words = _split({**WAITING, **shared})
    for attempt in range(1, MAX_ATTEMPTS + 1):
        submission_id = f"{job_id}-{attempt}"
        info = _find(client, submission_id)
        if info is None:
            gpus = gpus_for(arguments[0], log)
            client.submit_job(
                entrypoint=_shell_line([*words, "python", "-m", PROGRAM, *arguments, "--result", str(result)]),
                submission_id=submission_id,
                runtime_env={"env_vars": variables},
                entrypoint_num_gpus=gpus or None,
                metadata={"job_name": called or job_id, "command": shlex.join([PROGRAM, *arguments])},
            )
            return submission_id
        if info.status not in ("FAILED", "STOPPED"):
            return submission_id
    raise CommandFailed(f"{job_id} failed {MAX_ATTEMPTS} times.")


def gpus_for(command: str, log: Log) -> int:
    """How many GPUs a `pangu` command is to have: one if it makes use of one and a node of the cluster has any, else 0."""
    from ray.util.state import StateApiClient
    from ray.util.state.common import ListApiOptions, StateResource

    if command not in ON_A_GPU:
        return 0
    client = StateApiClient(os.environ["RAY_API_SERVER_ADDRESS"], headers=headers())
    alive = ListApiOptions(filters=[("state", "=", "ALIVE")], limit=10_000)
    nodes = cast("list[NodeState]", client.list(StateResource.NODES, alive, raise_on_missing_output=True))
    if any((node.resources_total or {}).get("GPU", 0) >= 1 for node in nodes):
        return 1
    log(f"No node of this cluster has a GPU, so `pangu {command}` computes on CPU cores.")
    return 0


def _split(variables: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Those for a runtime environment, and words before the command for the others: in the former Ray would replace $NAME."""
    kept = {name: value for name, value in variables.items() if "$" not in value}
    others = [f"{name}={value}" for name, value in variables.items() if name not in kept]
    return kept, ["env", *others] if others else []


def follow(client: "JobSubmissionClient", submission_id: str) -> Iterator[str]:
    """Every line that the job prints, from its first one, until it ends; survives a broken connection.

    Raises:
        CommandFailed: the head stays away, or came back without any memory of the job.
    """
    from aiohttp import ClientError

    seen = 0
    while True:
        with contextlib.suppress(OSError, RuntimeError, ClientError):
            for number, line in enumerate(_tail(client, submission_id)):
                if number >= seen:
                    seen += 1
                    yield line
        if answer(lambda: client.get_job_status(submission_id), submission_id).is_terminal():
            break
        time.sleep(1)
    # What was printed between the last look and the end.
    yield from answer(lambda: client.get_job_logs(submission_id), submission_id).splitlines()[seen:]


def answer(ask: Callable[[], Answer], submission_id: str, patience_s: float = HEAD_PATIENCE_S) -> Answer:
    """What the head answers, which may be away for a while: its machine restarts, or its network is cut.

    Raises:
        CommandFailed: it stays away for `patience_s`, or it was started anew and does not know the job: nothing ended the command
            but the head's end, so another attempt may go on.
        CommandStopped: this process has stopped the job meanwhile.
    """

    def ask_once() -> Answer:
        _check_wanted(submission_id)
        try:
            return ask()
        except (OSError, RuntimeError) as error:
            if "does not exist" in str(error):
                raise CommandFailed(
                    f"Ray's head was started anew and knows nothing of the job {submission_id}."
                ) from error
            raise HeadAway from error

    try:
        return retrying(ask_once, (HeadAway,), patience_s)
    except HeadAway as error:
        raise CommandFailed(f"Ray's head was away for {patience_s:.0f} s while {submission_id} ran.") from error


def stop(client: "JobSubmissionClient", submission_id: str, patience_s: float = 15.0) -> None:
    """Ask Ray to stop the job, and wait up to `patience_s` seconds until it has."""
    client.stop_job(submission_id)
    deadline = time.monotonic() + patience_s
    while not client.get_job_status(submission_id).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.2)


def stop_all(prefix: str) -> list[str]:
    """Stop every living job and end every process whose id begins with `prefix`; returns the jobs' submission ids.

    Raises:
        UserError: no address of a job server is set, or it does not say what runs there.
    """
    _stopped.add(prefix)
    end(marked(MARK, prefix, prefix=True))
    found = [name for name in living(server_address(), headers()) if name.startswith(prefix)]
    if found:
        client = connect()
        for submission_id in found:
            client.stop_job(submission_id)
        for submission_id in found:
            stop(client, submission_id)
    return found


def _check_wanted(job_id: str) -> None:
    """Raises CommandStopped if this process has stopped the job."""
    if any(job_id.startswith(prefix) for prefix in _stopped):
        raise CommandStopped(f"{job_id} was stopped.")


def _find(client: "JobSubmissionClient", submission_id: str) -> "JobInfo | None":
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return None
        raise


def _tail(client: "JobSubmissionClient", submission_id: str) -> Iterator[str]:
    """Lines of Ray's asynchronous log stream, for synchronous callers."""
    loop = asyncio.new_event_loop()
    stream = cast("AsyncGenerator[str, None]", client.tail_job_logs(submission_id))
    rest = ""
    try:
        while True:
            try:
                chunk = loop.run_until_complete(anext(stream))
            except StopAsyncIteration:
                break
            *lines, rest = (rest + chunk).split("\n")
            yield from lines
        if rest:
            yield rest
    finally:
        loop.run_until_complete(stream.aclose())
        loop.close()


def _watch(lines: Iterator[str] | Any, report: Reporter, log: Log) -> list[str]:
    """Pass progress and other lines on as they come; return the last few that were no progress."""
    last: list[str] = []
    for line in lines:
        line = line.rstrip()
        progress = parse_progress(line)
        if progress is not None:
            report(progress)
        elif line:
            log(line)
            last = [*last[-9:], line]
    return last


def _failure(arguments: Sequence[str], code: int | None, last: list[str]) -> Exception:
    """The error that a command's exit code and last lines mean."""
    sentences = [line[len(SENTENCE) :] for line in last if line.startswith(SENTENCE)]
    if code == BAD_INPUT and sentences:
        return UserError(sentences[-1])
    return CommandFailed(f"`pangu {' '.join(arguments)}` ended with exit code {code}: " + " | ".join(last[-3:]))


def _shell_line(command: Sequence[str]) -> str:
    """Ray runs an entrypoint in a shell; `exec` makes its exit code and signals the command's own."""
    return "exec " + shlex.join(command)
