"""A home of any name, function by function: what supervisord, SQLAlchemy, MLflow, Ray and Rich make of its path."""

import io
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import make_url

from pangu import jobs
from pangu.retrain.press import say
from pangu.stack import Stack
from pangu.stack.database_schema import revision
from pangu.stack.programs import mlflow_folder, programs
from pangu.stack.supervision import BLANK, write_configuration
from pangu.storage import Home
from tests import nasty


@pytest.fixture
def odd(tmp_path: Path) -> Stack:
    """A stack that does not run, in a home and a project of any name."""
    home, project = Home(tmp_path / nasty.NAME), tmp_path / f"project{nasty.NAME}"
    project.mkdir()
    home.stack.mkdir(parents=True)
    ports = ("prefect", "mlflow", "ray", "ray_client", "ray_dashboard", "serve")
    return Stack(
        stack_id="x", home=home.root, project=project, runtime=tmp_path, token_path=home.stack / "ray_token",
        **{f"{name}_port": number for number, name in enumerate(ports, 1)},
    )  # fmt: skip


def test_supervisord_reads_back_every_command_folder_and_log(odd: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.options import ServerOptions

    mlflow_folder(odd).mkdir()
    for name, value in {**odd.environment(), BLANK: " "}.items():
        monkeypatch.setenv(name, value)
    options = ServerOptions()
    options.realize(["-c", str(write_configuration(odd))])
    logs = Home(odd.home).logs
    assert (options.directory, options.logfile) == (str(odd.project), str(logs / "supervisor.log"))
    read = {config.name: config for group in options.process_group_configs for config in group.process_configs}
    for program in programs(odd):
        config = read.pop(program.name)
        assert shlex.split(config.command)[-len(program.command) :] == list(program.command)
        assert (config.directory or "", config.environment) == (program.folder, program.environment)
        assert config.stdout_logfile == str(logs / f"{program.name}.log")
    assert not read


def test_the_servers_find_their_databases_and_artefacts(odd: Stack) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    found = {program.name: program for program in programs(odd)}
    url = make_url(found["prefect"].environment["PREFECT_API_DATABASE_CONNECTION_URL"])
    assert url.database == str(odd.home / "stack/prefect/prefect.db") and url.drivername == "sqlite+aiosqlite"
    *_, database_uri, artifacts_uri = found["mlflow"].command
    assert make_url(database_uri).database == "mlflow.db"
    artefacts = get_artifact_repository(artifacts_uri)
    assert artefacts._artifact_dir == str(odd.home / "stack/mlflow/artifacts")
    mlflow_folder(odd).mkdir()
    with closing(sqlite3.connect(mlflow_folder(odd) / "mlflow.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('abc')")
        database.commit()
    assert revision(odd, "mlflow") == "abc"


def test_a_ray_job_finds_its_home_whatever_ray_replaces_in_variables(
    odd: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"PANGU_HOME": str(odd.home), "PANGU_TABLES": "s3://data/${HOME}/a b", "AWS_REGION": "eu"}
    shared, words = jobs._split(variables)
    assert shared == {"AWS_REGION": "eu"}
    for name in variables:
        monkeypatch.setenv(name, "of the node")
    line = jobs._shell_line([*words, "env", "-0"])
    # In a process of its own: Ray reads the token's variables once, and other tests here need them.
    of_ray = "import sys, os, json; from ray._private.utils import update_envs; update_envs(json.loads(sys.argv[1])); "
    command = [
        sys.executable,
        "-c",
        of_ray + "os.execv('/bin/sh', ['sh', '-c', sys.argv[2]])",
        json.dumps(shared),
        line,
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    seen = dict(one.split("=", 1) for one in done.stdout.decode().split("\0") if one)
    assert {name: seen[name] for name in variables} == variables
    assert jobs._split({"A": "b"}) == ({"A": "b"}, [])


def test_a_path_is_no_markup() -> None:
    shown = io.StringIO()
    say(Console(file=shown, width=400), "The stack of /a/[/b]/[red] is down.")
    assert re.sub(r"\s+", " ", shown.getvalue()).strip() == "The stack of /a/[/b]/[red] is down."
