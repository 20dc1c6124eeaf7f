"""A program that is started again ends what the one before it left, and nothing else."""

import os
import subprocess
import sys
import uuid

from pangu.stack.exec_fresh import PROGRAM
from pangu.stack.supervision import MARK


def sleeper(stack_id: str, program: str) -> subprocess.Popen[bytes]:
    """A child that outlived its server."""
    environment = {**os.environ, MARK: stack_id, PROGRAM: f"{stack_id}/{program}"}
    return subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True)


def test_the_children_of_the_process_before_are_ended_and_those_of_other_programs_live_on() -> None:
    stack_id = uuid.uuid4().hex
    mine, neighbours, strangers = (
        sleeper(stack_id, "mlflow"),
        sleeper(stack_id, "ray"),
        sleeper(stack_id[::-1], "mlflow"),
    )
    try:
        command = [sys.executable, "-c", f"import os; print(os.environ['{PROGRAM}'])"]
        started = subprocess.run(
            [sys.executable, "-m", "pangu.stack.exec_fresh", "mlflow", *command],
            env={**os.environ, MARK: stack_id},
            capture_output=True,
            text=True,
            check=True,
        )
        assert started.stdout.strip() == f"{stack_id}/mlflow"
        assert mine.wait(10) < 0
        assert neighbours.poll() is strangers.poll() is None
    finally:
        for one in (mine, neighbours, strangers):
            one.kill()
            one.wait()
