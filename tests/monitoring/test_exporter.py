"""What is exported, read back in Prometheus' own format: flows through Prefect's API, trainings from their folders."""

import time
from datetime import UTC, datetime, timedelta

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pangu.monitoring.exporter import RUNS_AT_ONCE, Flows, Trainings, registry_of
from pangu.recipes import recipe
from pangu.storage import Home, write_json
from pangu.train.history import HISTORY_FILE, History
from pangu.train.job import JOB_FILE, TrainJob


def values(collector: object) -> dict[tuple[str, ...], float]:
    """(metric, label value, ...) -> value."""
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def prefect(runs: list[dict]) -> httpx.Client:
    """A server that answers as Prefect's does, page by page."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/deployments/filter"):
            return httpx.Response(
                200, json=[{"id": "d1", "name": "retrain-pair"}, {"id": "d2", "name": "ingest-images"}]
            )
        import json

        asked = json.loads(request.content)
        return httpx.Response(200, json=runs[asked["offset"] : asked["offset"] + asked["limit"]])

    return httpx.Client(base_url="http://prefect/api", transport=httpx.MockTransport(answer))


def run(deployment: str, state: str, began_s_ago: float | None = None) -> dict:
    began = (datetime.now(UTC) - timedelta(seconds=began_s_ago)).isoformat() if began_s_ago is not None else None
    return {"deployment_id": deployment, "state_type": state, "start_time": began, "name": f"{state}-{began_s_ago}"}


def test_every_run_is_counted_once_however_many_pages_there_are() -> None:
    runs = [run("d1", "COMPLETED")] * RUNS_AT_ONCE + [run("d2", "FAILED")] * 3 + [run("d1", "RUNNING", 60)]
    found = values(Flows(prefect(runs)))
    assert found["pangu_flow_runs", "retrain-pair", "COMPLETED"] == RUNS_AT_ONCE
    assert found["pangu_flow_runs", "ingest-images", "FAILED"] == 3
    assert 60 <= found["pangu_flow_running_seconds", "retrain-pair", "RUNNING-60"] < 90
    assert found["pangu_prefect_up",] == 1


def test_a_server_that_is_gone_is_a_figure_and_no_error(tmp_path) -> None:
    text = generate_latest(registry_of(Home(tmp_path), "http://127.0.0.1:9/api")).decode()
    assert "pangu_prefect_up 0.0" in text


def test_a_training_shows_its_newest_line_and_its_silence_until_it_is_done(home: Home) -> None:
    folder = home.run("structure-a")
    job = TrainJob(
        role="structure",
        run_name="structure-a",
        encode_id="e",
        recipe=recipe("tiny"),
        encoded=home.root,
        run_folder=folder,
    )
    write_json(folder / JOB_FILE, job.model_dump(mode="json"))
    history = History(folder / HISTORY_FILE)
    history.add(1, {"loss": 0.9, "images_per_s": 10.0})
    history.add(2, {"loss": 0.5, "images_per_s": 12.0, "memory_gib": 1.5})
    found = values(Trainings(home))
    labels = ("structure", "structure-a")  # in the order of their names: role, run
    assert found["pangu_training_step", *labels] == 2
    assert found["pangu_training_steps", *labels] == recipe("tiny").structure.steps
    assert found["pangu_training_loss", *labels] == 0.5
    assert found["pangu_training_images_per_second", *labels] == 12.0
    assert 0 <= found["pangu_training_silent_seconds", *labels] < time.time()
    write_json(folder / "outcome.json", {})
    assert ("pangu_training_silent_seconds", *labels) not in values(Trainings(home))
