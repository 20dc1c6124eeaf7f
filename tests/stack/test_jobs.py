"""Commands as Ray Jobs and as processes: outcome, refusal, retry and stop, on the real stack."""

import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from pangu import jobs
from pangu.errors import UserError
from pangu.progress import Progress, silent
from pangu.stack import Stack
from pangu.stack.processes import marked

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
pathlib.Path(sys.argv[-1]).write_text(json.dumps({"pid": os.getpid(), "home": os.environ["PANGU_HOME"]}))
"""


@pytest.fixture
def probe(stack_environment: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
def test_a_broken_command_is_no_refusal_and_says_what_happened(run, probe: Path) -> None:
    with pytest.raises(jobs.CommandFailed, match="out of luck"):
        run(["break"], f"test-{uuid4()}", probe, silent, lambda line: None)


def test_asking_again_finds_the_job_that_succeeded(probe: Path) -> None:
    job_id = f"test-{uuid4()}"
    first = jobs.run_as_job(["work"], job_id, probe, silent, lambda line: None)
    assert jobs.run_as_job(["work"], job_id, probe, silent, lambda line: None) == first
    assert jobs._find(jobs.connect(), f"{job_id}-2") is None


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
