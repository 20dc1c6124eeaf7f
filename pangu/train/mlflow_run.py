"""MLflow run of one training job, written by rank 0's background thread. The only place in training that knows MLflow.

The run's own history is the queue: whatever MLflow has not got yet lies there, so a lost server costs training nothing, and
nothing is kept in memory for it. (MLflow's own asynchronous logging drops what it fails to write, and waits without a limit.)
"""

import hashlib
import logging
import os
import platform
import socket
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

import pangu
from pangu.train.history import Line, read_history
from pangu.train.job import TrainJob
from pangu.train.mlflow_names import EXPERIMENT, PAIR, RUN_NAME, dataset_input
from pangu.train.world import World

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 100
"""Parameters or tags, and a tenth of the metrics, that one request to MLflow may carry."""
LONGEST_VALUE = 6000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PATIENCE_S = 30.0
"""How long the end of a training waits for MLflow."""

log = logging.getLogger(__name__)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted names, the way MLflow shows parameters."""
    result: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        result |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: str(value)[:LONGEST_VALUE]}
    return result


def tags_of(job: TrainJob, dataset: str, version: int, key: str = "") -> dict[str, str]:
    """What a run is found by: `pangu.pair` is the same for all roles of one recipe on one encoded dataset.

    key: digest of what went into the version of the dataset; "" where it is not known.
    """
    return {
        RUN_NAME: job.run_name,
        PAIR: job.pair,
        "pangu.role": job.role,
        "pangu.strategy": job.recipe.strategy,
        "pangu.recipe": job.recipe.name,
        "pangu.encode_id": job.encode_id,
        "pangu.dataset": dataset,
        "pangu.dataset_version": str(version),
        "pangu.dataset_key": key,
    }


def system_facts(world: World) -> dict[str, str]:
    """On what and by what code the job runs now; a resumed run may say something else."""
    cuda = world.device.type == "cuda"
    return {
        "system.device": torch.cuda.get_device_name(world.device) if cuda else platform.processor() or "cpu",
        "system.workers": str(world.size),
        "system.torch": torch.__version__,
        "system.pangu": pangu.__version__,
        "system.code": code_digest(),
    }


def code_digest() -> str:
    """First 12 hex digits of the SHA-256 of the package's own sources, in whatever way they were installed."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


class Tracker:
    """One MLflow run per training run name: a resumed run continues it, and no step is written twice.

    Without MLFLOW_TRACKING_URI it does nothing. Nothing here raises, and nothing but `finish` waits.
    """

    def __init__(self, history: Path, tags: dict[str, str], parameters: dict[str, str]) -> None:
        self.url = ""
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        self._history, self._tags, self._parameters = history, tags, parameters
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._written_step = 0
        self._pictures: deque[tuple[Path, str]] = deque(maxlen=64)
        self._status = ""
        self._trouble = ""
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        if self._uri:
            self._thread.start()

    def wake(self) -> None:
        """The history has a new line."""
        self._wake.set()

    def picture(self, path: Path, folder: str) -> None:
        """Keep the file among the run's artifacts, in `folder`."""
        if self._uri:
            self._pictures.append((path, folder))
            self._wake.set()

    def finish(self, status: str = "FINISHED", patience_s: float = PATIENCE_S) -> str:
        """End the run as MLflow names ends; returns "" or the sentence that says what MLflow did not get."""
        if not self._uri:
            return ""
        self._status = status
        self._wake.set()
        self._thread.join(patience_s)
        if not self._thread.is_alive():
            return ""
        missing = len(read_history(self._history, self._written_step))
        return (
            f"MLflow at {urlsplit(self._uri).netloc.rpartition('@')[2] or self._uri} lacks the last {missing} log lines of "
            f"{self._tags[RUN_NAME]} ({self._trouble or 'it is slow'}); they are in {self._history}."
        )

    def _follow(self) -> None:
        """Write what there is, then sleep until there is more; after a failure, for longer each time."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                ending = self._status
                self._write()
                if ending:
                    self._connected().set_terminated(self._run_id, ending)
                    return
                self._trouble, pause_s = "", FIRST_PAUSE_S
            except Exception as error:
                if not self._trouble:
                    log.warning("MLflow cannot be written to (%s); trying again while the training goes on.", error)
                self._trouble = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                self._wake.set()

    def _write(self) -> None:
        client = self._connected()
        lines = read_history(self._history, self._written_step)
        for some in _batches(lines, 10 * BATCH):
            client.log_batch(self._run_id, metrics=[metric for line in some for metric in _metrics(line)])
            self._written_step = some[-1].step
        while self._pictures:
            path, folder = self._pictures[0]
            if path.is_file():
                client.log_artifact(self._run_id, str(path), folder)
            self._pictures.popleft()

    def _connected(self) -> "MlflowClient":
        """The client, once the run is there with its tags and parameters and it is known what MLflow has of it."""
        if self._client is not None:
            check_answers(self._uri)
            return self._client
        check_answers(self._uri)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        name = self._tags[RUN_NAME]
        runs = client.search_runs([experiment], f"tags.`{RUN_NAME}` = '{name}'", max_results=1)
        run = runs[0] if runs else client.create_run(experiment, tags=self._tags, run_name=name)
        self._run_id = run.info.run_id
        client.update_run(self._run_id, status="RUNNING")
        self._describe(client, run.data.params)
        if "loss" in run.data.metrics:
            self._written_step = max(metric.step for metric in client.get_metric_history(self._run_id, "loss"))
        if self._uri.startswith("http"):
            self.url = f"{self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self._run_id}"
        self._client = client
        return client

    def _describe(self, client: "MlflowClient", known: dict[str, str]) -> None:
        """Tags as they are now; parameters once, for MLflow lets none change."""
        from mlflow.entities import Param, RunTag

        client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in self._tags.items()])
        if self._tags["pangu.dataset"]:
            data = dataset_input(self._tags["pangu.dataset"], int(self._tags["pangu.dataset_version"]))
            client.log_inputs(self._run_id, datasets=[data])
        missing = [Param(key, value) for key, value in self._parameters.items() if key not in known]
        for start in range(0, len(missing), BATCH):
            client.log_batch(self._run_id, params=missing[start : start + BATCH])


def check_answers(uri: str, timeout_s: float = 10.0) -> None:
    """Raises ConnectionError if nobody listens at an HTTP address: MLflow itself would try for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    address = urlsplit(uri)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=timeout_s).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers at {address.hostname}:{port}") from error


def _metrics(line: Line) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, line.time_ms, line.step) for key, value in line.metrics.items()]


def _batches(lines: list[Line], most: int) -> list[list[Line]]:
    """The lines in order, in parts of at most `most` metrics, or of one line."""
    parts: list[list[Line]] = []
    size = 0
    for line in lines:
        if not parts or size + len(line.metrics) > most:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += len(line.metrics)
    return parts
