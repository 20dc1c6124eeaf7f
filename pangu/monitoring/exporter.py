"""Flows and trainings in Prometheus' text format, read afresh from Prefect's API and the run folders at every scrape.

Changes nothing and keeps nothing.
"""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pangu.storage import Home
from pangu.train.history import HISTORY_FILE, read_history
from pangu.train.job import read_job

WINDOW = timedelta(days=1)
"""Flow runs that began, or should have begun, within this time are counted."""
RUNS_AT_ONCE = 200
"""Prefect answers with no more."""
FRESH_S = 7 * 24 * 3600.0
"""Trainings that wrote nothing for longer are history."""


class Flows(Collector):
    """Flow runs of the last day by deployment and state, how long the running ones run, and whether Prefect answers."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api

    def collect(self) -> Iterator[Metric]:
        answers = GaugeMetricFamily("pangu_prefect_up", "1 if Prefect's API answers")
        try:
            found = list(self._runs())
        except httpx.HTTPError:
            answers.add_metric([], 0)
            yield answers
            return
        answers.add_metric([], 1)
        yield answers
        runs = GaugeMetricFamily("pangu_flow_runs", "Flow runs of the last day", labels=["deployment", "state"])
        for labels, count in sorted(Counter((name, run["state_type"]) for name, run in found).items()):
            runs.add_metric(list(labels), count)
        yield runs
        running = GaugeMetricFamily(
            "pangu_flow_running_seconds", "Since a run under way began", labels=["deployment", "run"]
        )
        now = datetime.now(UTC)
        for name, run in found:
            if run["state_type"] == "RUNNING" and run["start_time"]:
                began = datetime.fromisoformat(run["start_time"].replace("Z", "+00:00"))
                running.add_metric([name, run["name"]], (now - began).total_seconds())
        yield running

    def _runs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(deployment, run) of every run in the window."""
        deployments = self._api.post("/deployments/filter", json={}).raise_for_status().json()
        names = {one["id"]: one["name"] for one in deployments}
        after = {"expected_start_time": {"after_": (datetime.now(UTC) - WINDOW).isoformat()}}
        offset = 0
        while True:
            asked = {"flow_runs": after, "limit": RUNS_AT_ONCE, "offset": offset}
            page = self._api.post("/flow_runs/filter", json=asked).raise_for_status().json()
            yield from ((names.get(run["deployment_id"], ""), run) for run in page)
            if len(page) < RUNS_AT_ONCE:
                return
            offset += RUNS_AT_ONCE


class Trainings(Collector):
    """The newest log line of every training of a home that wrote one lately."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        labels = ["run", "role"]
        step = GaugeMetricFamily("pangu_training_step", "Newest logged step", labels=labels)
        steps = GaugeMetricFamily("pangu_training_steps", "Steps of the whole training", labels=labels)
        loss = GaugeMetricFamily("pangu_training_loss", "Newest logged loss", labels=labels)
        speed = GaugeMetricFamily("pangu_training_images_per_second", "Newest logged speed", labels=labels)
        memory = GaugeMetricFamily("pangu_training_memory_gib", "Most memory a worker held", labels=labels)
        silent = GaugeMetricFamily(
            "pangu_training_silent_seconds", "Since the newest line of one under way", labels=labels
        )
        now = time.time()
        for path in sorted(self._home.run("x").parent.glob(f"*/{HISTORY_FILE}")):
            job = read_job(path.parent)
            if job is None or now - path.stat().st_mtime > FRESH_S or not (lines := read_history(path)):
                continue
            name, last = [path.parent.name, job.role], lines[-1]
            step.add_metric(name, last.step)
            steps.add_metric(name, job.recipe.training(job.role).steps)
            for family, metric in ((loss, "loss"), (speed, "images_per_s"), (memory, "memory_gib")):
                if metric in last.metrics:
                    family.add_metric(name, last.metrics[metric])
            if not finished(path.parent):
                silent.add_metric(name, now - last.time_ms / 1000)
        yield from (step, steps, loss, speed, memory, silent)


def finished(run_folder: Path) -> bool:
    return (run_folder / "outcome.json").is_file()


def registry_of(home: Home, prefect_api_url: str) -> CollectorRegistry:
    """Everything that is exported, in a registry of its own."""
    registry = CollectorRegistry()
    registry.register(Flows(httpx.Client(base_url=prefect_api_url, timeout=10, trust_env=False)))
    registry.register(Trainings(home))
    return registry
