"""The profile `server`, started once: PostgreSQL of our own, real S3, a database killed under a flow, and secrets that stay."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from pangu.data.table.delta import latest_version, read_rows
from pangu.errors import UserError
from pangu.stack import Stack, databases, down, up
from pangu.stack.backup import backup, restore
from pangu.stack.ports import free_port
from pangu.stack.postgres import data_folder
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import marked
from pangu.stack.supervision import MARK
from pangu.storage import Home
from tests.dashboard import finish, press, reach, state
from tests.data.ingest.test_local_sources import parquet
from tests.data.test_s3 import wait_for
from tests.stack.test_lifecycle import run_pangu

pytestmark = [pytest.mark.slow, pytest.mark.long]

STORAGE_SECRET = "marked-storage-secret-9c1f"
SERVE_SECRET = "marked-serve-secret-77ab"
ROWS = 7


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """An S3 server with one bucket, and variables that lead there, with marked secrets among them."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "pangu", "AWS_SECRET_ACCESS_KEY": STORAGE_SECRET,
                "PANGU_TABLES": "s3://data/tables", "PANGU_ARTIFACTS": "s3://data/mlflow",
                "PANGU_SERVE_KEYS": json.dumps([{"name": "me", "key": SERVE_SECRET}]),
            }.items():  # fmt: skip
                patch.setenv(name, value)
            patch.delenv("PANGU_POSTGRES_URL", raising=False)
            wait_for(port)
            boto3.client("s3").create_bucket(Bucket="data")
            yield patch
        finally:
            server.kill()


@pytest.fixture(scope="module")
def served(environment: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The stack, in a folder that PostgreSQL's user can get to."""
    place = Path(tempfile.mkdtemp(prefix="pangu-server-"))
    place.chmod(0o711)
    home = Home(place / "home")
    try:
        yield up(home, customary_ports=False, profile="server")
    finally:
        down(home)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card whose table holds the images themselves."""
    folder = tmp_path_factory.mktemp("card")
    parquet(folder / "drawings.parquet")
    path = folder / "local.yaml"
    path.write_text(
        "name: local\nsource: drawings.parquet\ncolumns: {image: picture, caption_en: en, caption_zh: zh}\n"
        "licence: {name: CC0}\ntexture_min_side: 32\n"
        "upscale: {target_side: 48, upscaler: lanczos, min_timestep: 300}\n"
    )
    return path


def kill_the_database(stack: Stack) -> None:
    """`kill -9`; returns when supervisord has started another one that answers."""
    lock = data_folder(Home(stack.home)) / "postmaster.pid"
    before = lock.read_text().splitlines()[0]
    os.kill(int(before), signal.SIGKILL)
    until = time.monotonic() + 120
    while not (lock.is_file() and lock.read_text().splitlines()[0] != before and databases.answers(stack)):
        assert time.monotonic() < until
        time.sleep(0.2)


def outcome(stack: Stack, run_id: str, stage: str) -> dict[str, Any]:
    return json.loads((stack.home / "flows" / run_id / f"{stage}.json").read_text())


def stored() -> dict[str, bytes]:
    """Every object of the bucket."""
    client = boto3.client("s3")
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="data").get("Contents", [])]
    return {key: client.get_object(Bucket="data", Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def worked(served: Stack, card: Path) -> dict[str, Any]:
    """A run in MLflow, then ingest and prepare by the dashboard's API, with the database killed while prepare runs."""
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch, prefect_api(served) as api:
        for name, value in served.environment().items():
            patch.setenv(name, value)
        client = MlflowClient(tracking_uri=served.mlflow_url)
        tracked = client.create_run("0").info.run_id
        client.log_metric(tracked, "loss", 0.25)
        client.log_text(tracked, "a fox", "caption.txt")
        first = press(api, "ingest-images", {"card": str(card)}).raise_for_status().json()["id"]
        ingested = finish(api, first)
        assert ingested["type"] == "COMPLETED", ingested
        settings = {"card": str(card), "ingest_id": outcome(served, first, "ingest")["ingest_id"]}
        second = press(api, "prepare-dataset", settings).raise_for_status().json()["id"]
        reach(api, second, "RUNNING")
        kill_the_database(served)
        prepared = finish(api, second)
        client.log_metric(tracked, "loss", 0.125, step=1)
        client.set_terminated(tracked)
        return {"runs": (first, second), "prepared": prepared, "client": client, "tracked": tracked}


def test_every_part_answers_and_status_names_database_and_storage(served: Stack) -> None:
    status = run_pangu(served, "status")
    assert status.returncode == 0, status.stdout
    for name in ("PostgreSQL", "Object storage", "Prefect", "MLflow"):
        assert any(line.startswith(name) and " ok " in line for line in status.stdout.splitlines()), status.stdout


def test_a_database_killed_under_a_flow_comes_back_by_itself_and_nothing_is_lost(
    served: Stack, worked: dict[str, Any]
) -> None:
    assert worked["prepared"]["type"] == "COMPLETED", worked["prepared"]
    with prefect_api(served) as api:
        assert [state(api, run)["type"] for run in worked["runs"]] == ["COMPLETED", "COMPLETED"]
    history = worked["client"].get_metric_history(worked["tracked"], "loss")
    assert sorted((point.step, point.value) for point in history) == [(0, 0.25), (1, 0.125)]
    assert worked["client"].get_run(worked["tracked"]).info.status == "FINISHED"


def test_tables_and_artefacts_lie_in_object_storage_and_databases_in_postgresql(
    served: Stack, worked: dict[str, Any]
) -> None:
    home = Home(served.home, served.profile.tables)
    assert read_rows(home, "local", latest_version(home, "local")).num_rows == ROWS
    assert not Home(served.home, "").table("local").exists()
    objects = stored()
    assert any(key.startswith("mlflow/") and data == b"a fox" for key, data in objects.items())
    assert any(key.startswith("tables/local/_delta_log/") for key in objects)
    assert not list(served.home.rglob("*.db"))


def test_no_secret_stands_in_any_log_database_artefact_run_folder_or_command_line(
    served: Stack, worked: dict[str, Any], tmp_path: Path
) -> None:
    token, password = served.token, (served.home / "stack/postgres_password").read_text().strip()
    secrets = {name.encode() for name in (STORAGE_SECRET, SERVE_SECRET, token, password)}
    own = {served.token_path, served.home / "stack/postgres_password", served.passfile}
    places = [path for root in (served.home, served.runtime) for path in root.rglob("*") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in places if path not in own}
    for name in databases.NAMES:
        plain = tmp_path / f"{name}.sql"
        databases._run(served, "pg_dump", ["--format=plain", f"--file={plain}", name])
        texts[f"database {name}"] = plain.read_bytes()
    assert b"ingest-images" in texts["database prefect"] and b"loss" in texts["database mlflow"]
    texts |= {f"s3://data/{key}": data for key, data in stored().items()}
    texts |= {f"process {one.pid}": " ".join(one.cmdline()).encode() for one in marked(MARK, served.stack_id)}
    assert len([name for name in texts if name.endswith(".log")]) > 5
    assert not [name for name, data in texts.items() if any(secret in data for secret in secrets)]


def test_a_backup_holds_both_databases_and_says_what_it_leaves_to_the_bucket(
    served: Stack, worked: dict[str, Any], tmp_path: Path
) -> None:
    kept = backup(Home(served.home), tmp_path / "b.tar")
    assert kept.elsewhere == ("s3://data/tables", "s3://data/mlflow")
    with tarfile.open(tmp_path / "b.tar") as archive:
        names = set(archive.getnames())
    assert {"stack/dumps/prefect.dump", "stack/dumps/mlflow.dump", "stack/profile.json"} <= names
    assert not [name for name in names if name.startswith("stack/postgres/")]


def test_the_other_profile_is_refused_by_name_while_it_runs(served: Stack) -> None:
    with pytest.raises(UserError, match=r"began with the profile server, .* --profile server"):
        up(Home(served.home), profile="laptop")


def test_a_destroyed_server_comes_back_from_its_backup_with_runs_models_and_rows(
    served: Stack, worked: dict[str, Any], tmp_path: Path
) -> None:
    """The last one here: it destroys the home that the others share, and starts the stack again."""
    from mlflow import MlflowClient

    home = Home(served.home)
    backup(home, tmp_path / "b.tar")
    down(home)
    shutil.rmtree(home.root)
    restore(tmp_path / "b.tar", home)
    again = up(home, customary_ports=False)
    with prefect_api(again) as api:
        assert [state(api, run)["type"] for run in worked["runs"]] == ["COMPLETED", "COMPLETED"]
        settings = {"card": "no-such-card"}
        assert finish(api, press(api, "ingest-images", settings).raise_for_status().json()["id"])["type"] == "FAILED"
    client = MlflowClient(tracking_uri=again.mlflow_url)
    history = client.get_metric_history(worked["tracked"], "loss")
    assert sorted((point.step, point.value) for point in history) == [(0, 0.25), (1, 0.125)]
    rows = Home(again.home, again.profile.tables)
    assert read_rows(rows, "local", latest_version(rows, "local")).num_rows == ROWS
