"""The real stack: what `pangu up` starts, what a second one says, and what `pangu down` leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from pangu.errors import UserError
from pangu.file_lock import locked
from pangu.stack import Stack, down, up
from pangu.stack.health import parts
from pangu.stack.ports import is_listening
from pangu.stack.processes import ProcessRecord, end, marked
from pangu.stack.supervision import MARK
from pangu.storage import Home


def run_pangu(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pangu", *arguments]
    return subprocess.run(command, env={**os.environ, **stack.environment()}, capture_output=True, text=True)


def test_every_part_answers(stack: Stack) -> None:
    assert {part.name: part.check(stack) for part in parts(stack) if not part.optional} == {
        "Home page": True,
        "Prefect": True,
        "Prefect worker": True,
        "MLflow": True,
        "Ray": True,
    }


def test_status_names_every_part_with_its_address(stack: Stack) -> None:
    status = run_pangu(stack, "status")
    assert status.returncode == 0, status.stderr
    for part in parts(stack):
        assert any(part.name in line and part.address in line for line in status.stdout.splitlines())


def test_a_second_up_says_that_it_is_up_and_starts_nothing(stack: Stack) -> None:
    before = {process.pid for process in marked(MARK, stack.stack_id)}
    again = run_pangu(stack, "up")
    assert again.returncode == 0 and "already up" in again.stdout
    assert Stack.load(Home(stack.home)) == stack
    assert {p.pid for p in marked(MARK, stack.stack_id) if "supervisord" in " ".join(p.cmdline())} <= before


def test_two_ups_at_once_end_with_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with locked(home.stack / "lock", "busy"), pytest.raises(UserError, match="Another `pangu up`"):
        up(home)


def test_down_where_nothing_runs_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    down(Home(tmp_path), say=said.append)
    assert said == [f"No stack is running under {tmp_path}."]


def test_nothing_listens_beyond_the_loopback_interface(stack: Stack) -> None:
    addresses = {
        connection.laddr.ip
        for process in marked(MARK, stack.stack_id)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_ray_refuses_whoever_has_no_token(stack: Stack) -> None:
    url = f"{stack.ray_dashboard_url}/api/jobs/"
    assert httpx.get(url, trust_env=False).status_code == httpx.codes.UNAUTHORIZED
    allowed = httpx.get(url, headers={"Authorization": f"Bearer {stack.token}"}, trust_env=False)
    assert allowed.status_code == httpx.codes.OK
    assert stack.token_path.stat().st_mode & 0o777 == 0o600


def test_the_token_stands_in_no_log_no_command_line_and_no_file_but_its_own(stack: Stack) -> None:
    token = stack.token
    assert not [p for p in marked(MARK, stack.stack_id) if token in " ".join(p.cmdline())]
    holders = {path for path in stack.home.rglob("*") if path.is_file() and token.encode() in path.read_bytes()}
    assert holders == {stack.token_path}


def test_a_server_that_is_not_there_is_one_sentence(stack: Stack) -> None:
    environment = {**os.environ, **stack.environment(), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "pangu", "deployments"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("pangu: No Prefect server takes orders at http://127.0.0.1:9/api")


def test_a_recycled_pid_is_not_taken_for_the_old_process() -> None:
    me = ProcessRecord.of(os.getpid())
    assert me.find() is not None
    assert me.model_copy(update={"started": me.started - 60}).find() is None


def test_a_marked_process_is_found_in_another_session_and_ended() -> None:
    name, value = "PANGU_TEST_MARK", f"{os.getpid()}-{time.time()}"
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", stubborn],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    assert [found.pid for found in marked(name, value)] == [process.pid]
    end(marked(name, value), patience_s=0.5)
    process.wait(5)
    assert marked(name, value) == []


def kill_up_half_way(home: Home) -> Stack:
    """What `up` leaves when it is killed right after the servers were started."""
    code = (
        "from pathlib import Path; from pangu.stack import up; from pangu.storage import Home; "
        f"up(Home(Path({str(home.root)!r})), customary_ports=False)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as process:
        while (stack := Stack.load(home)) is None or not stack.is_running:
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    assert not stack.is_complete
    return stack


@pytest.mark.slow
@pytest.mark.long
def test_up_begins_a_half_started_stack_again_and_down_leaves_no_process_of_a_killed_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        half_started = kill_up_half_way(home)
        stack = up(home, customary_ports=False)
        assert stack.is_complete
        assert marked(MARK, half_started.stack_id) == []
        assert len(marked(MARK, stack.stack_id)) > 10
        assert stack.supervisor is not None
        os.kill(stack.supervisor.pid, signal.SIGKILL)
    finally:
        down(home)
    assert marked(MARK, stack.stack_id) == []
    assert not stack.runtime.exists()
    for port in (stack.prefect_port, stack.mlflow_port, stack.ray_port, stack.ray_dashboard_port):
        assert not is_listening(port)
    down(home)
