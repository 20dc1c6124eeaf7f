"""Training runs on the real MLflow server: found by pair, written once per step, and no loss when it is lost."""

import socket
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pangu.stack import Stack
from pangu.train.history import read_history
from pangu.train.mlflow_run import EXPERIMENT, PAIR, RUN_NAME
from tests.train.tracked import start, tracked_job, write


class Forwarder:
    """A server that passes everything on to another port, and that one can lose."""

    def __init__(self, port: int) -> None:
        self._to, self._open = port, True
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._to))
            for one, other in ((client, there), (there, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                if not self._open:
                    break
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def lose(self) -> None:
        self._open = False
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def test_a_lost_server_costs_no_line_and_a_resumed_run_doubles_none(
    stack_environment: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tracked_job(tmp_path)
    forwarder = Forwarder(stack_environment.mlflow_port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{forwarder.port}")
    tracker, history = start(job)
    write(tracker, history, range(1, 4))
    deadline = time.monotonic() + 60
    while not tracker.url and time.monotonic() < deadline:
        time.sleep(0.05)
    forwarder.lose()
    write(tracker, history, range(4, 7))
    assert "lacks the last" in tracker.finish(patience_s=0.5)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack_environment.mlflow_url)
    tracker, history = start(job)
    write(tracker, history, range(5, 9))  # resumed from the checkpoint of step 4
    picture = tmp_path / "step-000008.png"
    picture.write_bytes(b"png")
    tracker.picture(picture, "samples")
    assert tracker.finish(patience_s=60) == ""

    client = MlflowClient(stack_environment.mlflow_url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{RUN_NAME}` = '{job.run_name}'")
    for name in ("loss", "loss/t0-124", "time/data"):
        assert sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name)) == list(range(1, 9))
    assert run.info.status == "FINISHED"
    assert run.data.params["optimization.lr_peak"] == str(job.recipe.optimization.lr_peak)
    assert run.data.tags["system.workers"] == "1"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == ["samples/step-000008.png"]
    assert run.info.run_id in tracker.url
    assert len(read_history(history.path)) == 8


def test_both_runs_of_a_pair_are_found_by_one_tag(stack_environment: Stack, tmp_path: Path) -> None:
    jobs = [tracked_job(tmp_path, role, tmp_path.name) for role in ("structure", "texture")]
    for job in jobs:
        tracker, history = start(job)
        write(tracker, history, range(1, 3))
        assert tracker.finish(patience_s=60) == ""
    client = MlflowClient(stack_environment.mlflow_url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.`{PAIR}` = '{jobs[0].pair}'")
    assert {run.data.tags["pangu.role"] for run in found} == {"structure", "texture"}
    assert {run.data.tags["pangu.dataset_version"] for run in found} == {"3"}
