"""Addresses that lead to somebody else, servers that refuse us, and servers of another version: one sentence each."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from pangu import jobs, ray_token
from pangu.compatibility import check_server
from pangu.errors import UserError
from pangu.registry import tracking
from pangu.serve import ray_cluster
from pangu.serve.settings import ServeSettings
from pangu.serve.standalone import serve
from pangu.stack import object_storage
from pangu.stack.deployments import check_api, check_schedules, flows_digest
from pangu.stack.profile import Profile
from tests import subtests


class Somebody(ThreadingHTTPServer):
    """An HTTP server that says one thing to everything, to whoever brings the right login or token where one is asked for."""

    def __init__(self, code: int, text: str, login: str = "", token: str = "") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                basic = f"Basic {base64.b64encode(login.encode()).decode()}"
                wanted = f"Bearer {token}" if token else basic
                allowed = not (login or token) or self.headers.get("Authorization") == wanted
                self.send_response(code if allowed else 401)
                self.end_headers()
                self.wfile.write(text.encode())

            do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def somebody() -> Iterator[type[Somebody]]:
    made: list[Somebody] = []

    def make(*arguments: object) -> Somebody:
        made.append(Somebody(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make  # type: ignore[misc]
    for one in made:
        one.shutdown()
        one.server_close()


def older(package: str) -> str:
    major, minor, *_ = version(package).split(".")
    return f"{major}.{int(minor) - 1}.9"


def test_the_same_version_and_newer_ones_of_the_same_major_version_are_spoken_with() -> None:
    major, minor, *_ = version("prefect").split(".")
    for good in (version("prefect"), f"{major}.{minor}.0", f"{major}.{int(minor) + 1}.0"):
        check_server("prefect", "http://x", good)
    for bad in (older("prefect"), f"{int(major) + 1}.0.0", f"{int(major) - 1}.99.0"):
        with pytest.raises(
            UserError, match=rf"prefect server at http://x is version {bad} .* pip install prefect=={bad}"
        ):
            check_server("prefect", "http://x", bad)


def test_prefect_older_elsewhere_and_behind_a_password(
    somebody: type[Somebody], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = somebody(200, json.dumps(older("prefect")))
    with pytest.raises(UserError, match=r"prefect server at .* is version .* make the server the same major version"):
        check_api(old.url)
    with pytest.raises(UserError, match=r"is no Prefect server \(404\); PREFECT_API_URL ends in /api"):
        check_api(somebody(404, "what?").url)
    with pytest.raises(UserError, match="is no prefect server: it says '<html>"):
        check_api(somebody(200, "<html>hello").url)
    closed = somebody(200, json.dumps(version("prefect")), "admin:right")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:wrong")
    with pytest.raises(UserError, match="refuses us; set PREFECT_API_AUTH_STRING"):
        check_api(closed.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:right")
    check_api(closed.url)


def test_mlflow_older_elsewhere_and_behind_a_password(
    somebody: type[Somebody], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with pytest.raises(UserError, match=r"mlflow server at .* is version"):
        tracking.check_server_at(somebody(200, older("mlflow")).url)
    with pytest.raises(UserError, match=r"is no MLflow server \(404\); check MLFLOW_TRACKING_URI"):
        tracking.check_server_at(somebody(404, "").url)
    closed = somebody(200, version("mlflow"), "me:right")
    with pytest.raises(UserError, match="refuses us; check MLFLOW_TRACKING_USERNAME"):
        tracking.check_server_at(closed.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right")
    tracking.check_server_at(closed.url)


def test_ray_older_elsewhere_and_with_another_token(somebody: type[Somebody], monkeypatch: pytest.MonkeyPatch) -> None:
    for code, text, sentence in (
        (200, json.dumps({"ray_version": older("ray")}), "ray server at .* is version"),
        (404, "", "is no Ray job server .* check RAY_API_SERVER_ADDRESS"),
        (200, "<html>", "is no Ray job server"),
        (401, "Unauthorized: Missing authentication token", "refuses this token; check RAY_AUTH_TOKEN_PATH"),
        (403, "Forbidden: Invalid authentication token", "refuses this token; check RAY_AUTH_TOKEN_PATH"),
    ):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", somebody(code, text).url)
        with pytest.raises(UserError, match=sentence):
            jobs.connect()
        with pytest.raises(UserError, match=r"does not say which jobs run .*see `pangu status`"):
            jobs.stop_all("nobody's")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"No Ray job server answers at http://127\.0\.0\.1:9"):
        jobs.connect()
    with pytest.raises(UserError, match=r"server at http://127\.0\.0\.1:9 does not say which jobs run"):
        jobs.stop_all("nobody's")


def test_each_of_several_clusters_gets_its_own_token_from_one_process(
    somebody: type[Somebody], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    told = json.dumps({"ray_version": version("ray")})
    for token in ("first", "second", "third"):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", somebody(200, told, "", token).url)
        with pytest.raises(UserError, match="refuses this token"):  # Ray's own client settles what it sends here, once
            jobs.connect()
        (tmp_path / token).write_text(f"{token}\n")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / token))
        jobs.connect()
        ray_cluster.connect()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("third")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert ray_token.headers() == {"Authorization": "Bearer third"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "by value")
    assert ray_token.headers() == {"Authorization": "Bearer by value"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert ray_token.headers() == {}


def test_object_storage_that_is_away_closed_or_without_the_bucket(
    somebody: type[Somebody], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def profile(endpoint: str) -> Profile:
        return Profile(name="server", tables="s3://data/tables", artifacts="s3://data/mlflow", endpoint=endpoint)

    def says(code: int, name: str) -> Profile:
        return profile(somebody(code, f"<Error><Code>{name}</Code><Message>no</Message></Error>").url)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marked-secret")
    with pytest.raises(
        UserError, match=r"No object storage answers at http://127\.0\.0\.1:9 .* check AWS_ENDPOINT_URL"
    ):
        object_storage.check(profile("http://127.0.0.1:9"))
    with pytest.raises(UserError, match="has no bucket data; create it"):
        object_storage.check(says(404, "NoSuchBucket"))
    with pytest.raises(
        UserError, match=r"lets nobody with these keys write to s3://data/tables \(SignatureDoes"
    ) as refused:
        object_storage.check(says(403, "SignatureDoesNotMatch"))
    assert "marked-secret" not in str(refused.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(UserError, match="no keys for the object storage; set AWS_ACCESS_KEY_ID"):
        object_storage.check(says(200, ""))


def test_a_port_in_use_is_refused_before_a_pair_is_loaded(somebody: type[Somebody], tmp_path: Path) -> None:
    port = somebody(200, "").server_port
    with pytest.raises(
        UserError, match=rf"Port {port} of 127\.0\.0\.1 can not be listened on .* choose another --port"
    ):
        serve(tmp_path, port, ServeSettings(), say=print)


@subtests.parametrize(
    ("schedule", "sentence"),
    [
        ('{slug: weekly, cron: "0 3 * * 0"}', r"schedule 'weekly' of retrain-pair .* has no timezone; add one"),
        ('{cron: "0 3 * * 0", timezone: Mars/Olympus}', r"schedule 'number 1' .* 'Mars/Olympus', which there is not"),
        ("{cron: ", "prefect.yaml is no YAML"),
    ],
)
def test_a_schedule_without_a_timezone_is_refused_before_anything_is_deployed(
    tmp_path: Path, schedule: str, sentence: str
) -> None:
    text = f"deployments:\n  - name: retrain-pair\n    schedules:\n      - {schedule}\n"
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        check_schedules(tmp_path)


def test_our_own_schedules_have_timezones_and_changed_flows_are_told_from_those_that_a_server_knows(
    tmp_path: Path,
) -> None:
    project = Path(__file__).parents[2]
    check_schedules(project)
    assert flows_digest(project) == flows_digest(project)
    (tmp_path / "flows").mkdir()
    seen = set()
    for name, text in (("prefect.yaml", "a"), ("prefect.yaml", "b"), ("flows/one.py", "b"), ("flows/two.py", "")):
        (tmp_path / name).write_text(text)
        seen.add(flows_digest(tmp_path))
    assert len(seen) == 4
