"""Commands as Ray Jobs and as processes: outcome, refusal, retry and stop, on the real stack."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pangu import jobs
from pangu.errors import UserError
from pangu.progress import Progress, silent
from pangu.stack import Stack
from pangu.stack.ports import choose_ports
from pangu.stack.processes import end, marked

COMMAND = """\
import json, os, pathlib, sys, time
if sys.argv[1] == "refuse":
    print("pangu: the card is upside down; turn it.", file=sys.stderr); sys.exit(2)
if sys.argv[1] == "sleep":
    print("sleeping", flush=True); time.sleep(120)
if sys.argv[1] == "break":
    raise RuntimeError("out of luck")
print('PANGU_PROGRESS {"stage": "probe", "done": 3, "total": 4, "unit": "steps"}', flush=True)
print("hello", flush=True)
there = {"pid": os.getpid(), "home": os.environ["PANGU_HOME"], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
pathlib.Path(sys.argv[-1]).write_text(json.dumps(there))
"""


@pytest.fixture
def probe(stack_environment: Stack, probe_alone: Path) -> Path:
    """`probe_alone` on the running stack."""
    return probe_alone


@pytest.fixture
def probe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small real command in pangu's place, for Ray Jobs and processes alike; the value is its result file."""
    (tmp_path / "pangu_probe.py").write_text(COMMAND)
    monkeypatch.setattr(jobs, "PROGRAM", "pangu_probe")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(jobs, "SHARED_VARIABLES", (*jobs.SHARED_VARIABLES, "PYTHONPATH"))
    return tmp_path / "result.json"


RUNNERS = [jobs.run_as_job, jobs.run_as_process]


@pytest.mark.parametrize("run", RUNNERS)
def test_a_command_reports_progress_logs_and_returns_its_outcome(run, probe: Path, stack: Stack) -> None:
    seen: list[Progress] = []
    lines: list[str] = []
    outcome = run(["work"], f"test-{uuid4()}", probe, seen.append, lines.append)
    assert outcome["home"] == str(stack.home)
    assert [(progress.stage, progress.done, progress.total) for progress in seen] == [("probe", 3, 4)]
    assert "hello" in lines and not any("PANGU_PROGRESS" in line for line in lines)


@pytest.mark.parametrize("run", RUNNERS)
def test_a_refusal_arrives_as_its_own_sentence(run, probe: Path) -> None:
    with pytest.raises(UserError, match=r"^the card is upside down; turn it\.$"):
        run(["refuse"], f"test-{uuid4()}", probe, silent, lambda line: None)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.long
def test_a_broken_command_is_no_refusal_and_says_what_happened(run, probe: Path) -> None:
    with pytest.raises(jobs.CommandFailed, match="out of luck"):
        run(["break"], f"test-{uuid4()}", probe, silent, lambda line: None)


def test_asking_again_finds_the_job_that_succeeded(probe: Path) -> None:
    job_id = f"test-{uuid4()}"
    first = jobs.run_as_job(["work"], job_id, probe, silent, lambda line: None, "work of retrain photos")
    found = jobs._find(jobs.connect(), f"{job_id}-1")
    assert found and found.metadata == {"job_name": "work of retrain photos", "command": f"{jobs.PROGRAM} work"}
    assert jobs.run_as_job(["work"], job_id, probe, silent, lambda line: None) == first
    assert jobs._find(jobs.connect(), f"{job_id}-2") is None


@pytest.mark.long
def test_after_a_failure_asking_again_starts_a_new_attempt(probe: Path) -> None:
    job_id = f"test-{uuid4()}"
    with pytest.raises(jobs.CommandFailed):
        jobs.run_as_job(["break"], job_id, probe, silent, lambda line: None)
    assert jobs.run_as_job(["work"], job_id, probe, silent, lambda line: None)["pid"]


@pytest.mark.parametrize("run", RUNNERS)
def test_stop_all_ends_a_long_command_within_fifteen_seconds(run, probe: Path) -> None:
    job_id, started, ended = f"test-{uuid4()}", threading.Event(), []

    def wait_for_it() -> None:
        try:
            run(["sleep"], job_id, probe, silent, lambda line: started.set() if line == "sleeping" else None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert started.wait(60)
    asked = time.monotonic()
    jobs.stop_all(job_id)
    thread.join(30)
    assert time.monotonic() - asked < 15
    assert len(ended) == 1 and isinstance(ended[0], jobs.CommandStopped | jobs.CommandFailed)
    assert marked(jobs.MARK, job_id) == []


def test_without_an_address_the_sentence_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(UserError, match="pangu up"):
        jobs.connect()


def test_a_head_that_is_away_for_a_moment_is_waited_for_and_a_new_one_fails_the_attempt() -> None:
    answers: list[Exception | str] = [ConnectionError("refused"), RuntimeError("status code 502"), "running"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert jobs.answer(ask, "one-1") == "running"
    answers.append(RuntimeError("Job one-1 does not exist"))
    with pytest.raises(jobs.CommandFailed, match="started anew and knows nothing of the job one-1"):
        jobs.answer(ask, "one-1")
    answers.append(ConnectionError("refused"))
    with pytest.raises(jobs.CommandFailed, match="was away for 0 s"):
        jobs.answer(ask, "one-1", patience_s=0)


@pytest.fixture
def ray_with_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of its own that says it has a GPU: Ray counts what it is told, and a command finds there what Ray gives it."""
    ports = choose_ports(False, {"gcs": 0, "dashboard": 0, "client": 0})
    (tmp_path / "token").write_text("0" * 64)
    for name, value in {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "PANGU_HOME": str(tmp_path),
        "PANGU_TEST_RAY": str(ports["gcs"]),
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(ports["gcs"]), "--dashboard-host", "127.0.0.1"]
    command += ["--dashboard-port", str(ports["dashboard"]), "--ray-client-server-port", str(ports["client"])]
    command += ["--dashboard-agent-listen-port", "0", "--metrics-export-port", "0", "--object-store-memory", "80000000"]
    command += ["--num-cpus", "2", "--num-gpus", "1", "--temp-dir", tempfile.mkdtemp(prefix="pangu-ray-", dir="/tmp")]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            jobs.connect(patience_s=90)
            until = time.monotonic() + 60
            while not jobs.gpus_for("evaluate", lambda line: None):  # until Ray has heard of its own node
                assert time.monotonic() < until
                time.sleep(0.2)
            yield
        finally:
            end(marked("PANGU_TEST_RAY", str(ports["gcs"])))
            head.wait(30)
            shutil.rmtree(command[-1], ignore_errors=True)


@pytest.mark.long
def test_a_command_that_computes_with_networks_gets_a_gpu_where_there_is_one(
    ray_with_a_gpu: None, probe_alone: Path
) -> None:
    said: list[str] = []
    found = {
        command: jobs.run_as_job([command], f"test-{uuid4()}", probe_alone, silent, said.append)["gpus"]
        for command in ("evaluate", "encode")
    }
    assert found == {"evaluate": "0", "encode": ""}  # whose actors ask for theirs
    assert not any("GPU" in line for line in said)


@pytest.mark.long
def test_without_a_gpu_it_runs_on_cpu_cores_and_says_so(probe: Path) -> None:
    said: list[str] = []
    assert jobs.run_as_job(["evaluate"], f"test-{uuid4()}", probe, silent, said.append)["pid"]
    assert "No node of this cluster has a GPU, so `pangu evaluate` computes on CPU cores." in said
