"""Who is answered: our own pages under names of loopback, and with the key whoever may do what its owner may."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from pangu.console.console_app import build_console
from pangu.console.console_guard import key_file, key_of, refusal
from pangu.console.dataset_views import _entries, _numbered
from pangu.data.table.placed_images import FOLDER
from pangu.data.table.versions import log
from pangu.storage import Home
from tests import subtests
from tests.console.home_with_pictures import NAME, prepared

HOST = {"host": "127.0.0.1:8080"}
JSON = {"content-type": "application/json"}
VERSION = f"/api/datasets/{NAME}/0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    prepared(home, tmp_path_factory.mktemp("card"))
    return home


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("PANGU_HOME", str(home.root))
    with TestClient(build_console(home), base_url="http://127.0.0.1:8080", raise_server_exceptions=False) as client:
        yield client


@subtests.parametrize(
    ("method", "path", "headers", "answered"),
    [
        ("GET", "/", HOST, True),
        ("GET", "/", {"host": "localhost:1"}, True),
        ("GET", "/", {"host": "[::1]:1"}, True),
        ("GET", "/", {"host": "rebound.example:8080"}, False),
        ("GET", "/", {"host": "127.0.0.1.example"}, False),
        ("GET", "/", {"host": ""}, False),
        ("GET", "/", {"host": "[::1"}, False),
        ("GET", "/datasets", HOST | {"sec-fetch-site": "cross-site"}, True),
        ("GET", "/api/overview", HOST | {"sec-fetch-site": "cross-site"}, False),
        ("GET", "/api/ray-token", HOST | {"sec-fetch-site": "same-site"}, False),
        ("GET", "/api/overview", HOST | {"sec-fetch-site": "same-origin"}, True),
        ("GET", "/api/overview", HOST | {"origin": "http://127.0.0.1:9999"}, False),
        ("POST", "/api/x", HOST | JSON, True),
        ("POST", "/api/x", HOST | JSON | {"origin": "http://127.0.0.1:8080"}, True),
        ("POST", "/api/x", HOST | JSON | {"origin": "http://evil.example"}, False),
        ("POST", "/api/x", HOST | JSON | {"origin": "null"}, False),
        ("POST", "/api/x", HOST | {"content-type": "text/plain"}, False),
        ("POST", "/api/x", HOST, False),
    ],
)
def test_only_pages_of_ours_are_answered(method: str, path: str, headers: dict[str, str], answered: bool) -> None:
    assert (refusal(method, path, headers) == "") is answered


def test_every_answer_says_what_browsers_may_do_with_it(client: TestClient) -> None:
    for path in ("/", "/nothing", "/api/overview", "/static/pangu.css"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 403


def test_what_the_owner_may_asks_for_the_key_that_lies_in_a_file_of_its_own(client: TestClient, home: Home) -> None:
    key = {"Authorization": f"Bearer {key_of(home)}"}
    assert key_file(home).stat().st_mode & 0o777 == 0o600
    body = {"filters": {"min_side": 64}}
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": key_of(home)},
        {"Authorization": "Bearer é".encode()},
    ):
        assert client.post(f"{VERSION}/refilter", json=body, headers=headers).status_code == 401
        assert client.get("/api/ray-token", headers=headers).status_code == 401
    assert [entry.version for entry in log(home, NAME)] == [0]
    refused = client.get("/api/ray-token", headers=key)
    assert refused.status_code == 404 and "pangu up" in refused.json()["error"]["message"]
    assert client.get("/api/key", headers=key).json() == {"ok": True}


@subtests.parametrize(
    "path",
    [
        "/datasets/unknown", f"/datasets/{NAME}/7", f"/datasets/{NAME}/-1", "/datasets/%2e%2e%2f%2e%2e", "/nothing",
        f"/datasets/{NAME}/999999999999999999999",
    ],
)  # fmt: skip
def test_an_address_of_nothing_is_the_page_that_says_so(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and 'data-word="absentabout"' in answer.text


@subtests.parametrize(
    ("path", "said"),
    [
        ("/api/datasets/unknown", "There is no dataset 'unknown'"),
        ("/api/datasets/..%2f..%2fetc/0", "There is no"),
        (f"/api/datasets/{NAME}/7", "no readable version 7; it has 0"),
        (f"{VERSION}/rows/other", "kept or dropped"),
        (f"{VERSION}/rows/kept?page=-1", "page must be a whole number"),
        (f"{VERSION}/rows/kept?page=99", "There is no page 99"),
        (f"{VERSION}/rows/kept?places=1,x", "places must be a whole number"),
        (f"{VERSION}/rows/kept/100000", "There is no row 100000"),
        (f"{VERSION}/rows/kept/..%2f..%2fsecret", "There is no such path"),
        (f"/api/sheets/{NAME}", "`pangu retrain` draws one"),
        ("/api/sheets/..%2fstack", "There is no"),
        ("/api/trainings/..%2f..%2fstack/curves", "There is no"),
        ("/static/..%2fconsole_app.py", "There is no such path"),
    ],
)
def test_what_is_not_there_is_one_sentence(client: TestClient, path: str, said: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and said in answer.json()["error"]["message"]


@subtests.parametrize(
    ("body", "param", "said"),
    [
        (b"", None, "The body must be"),
        (b'{"filters": {"min_side": "64"}}', None, "The body must be"),
        (b'{"filters": {"min_side": true}}', None, "The body must be"),
        (b"[" * 5000, None, "The body must be"),
        (b"x" * 20_000, None, "not be longer"),
        (b'{"filters": {"max_aspect": 0.5}}', "max_aspect", "greater than or equal to 1"),
        (b'{"filters": {"min_clip_score": 20}}', None, "no row has the score 'clip_score'"),
    ],
)
def test_a_threshold_that_can_not_be_is_refused_at_its_field(
    client: TestClient, body: bytes, param: str | None, said: str
) -> None:
    answer = client.post(f"{VERSION}/preview", content=body, headers=JSON)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"] and error["param"] == param


def test_pictures_are_encoded_anew_and_those_that_are_gone_are_said_to_be(client: TestClient, home: Home) -> None:
    small, whole = client.get(f"{VERSION}/rows/kept/3?small"), client.get(f"{VERSION}/rows/dropped/0")
    assert small.headers["Content-Type"] == "image/jpeg" and small.content.startswith(b"\xff\xd8")
    assert whole.headers["Content-Type"] == "image/png" and whole.content.startswith(b"\x89PNG")
    overview = client.get("/api/overview").json()
    assert overview["stack"] is None and overview["datasets"] == [NAME] and overview["disk"]["free"] > 0
    for images in home.table(NAME).joinpath(FOLDER).rglob("*.parquet"):
        images.rename(images.with_suffix(".away"))
    _numbered.cache_clear()
    _entries.cache_clear()
    answer, newest = client.get(f"{VERSION}/rows/kept/3"), client.get(f"/api/datasets/{NAME}")
    for images in home.table(NAME).joinpath(FOLDER).rglob("*.away"):
        images.rename(images.with_suffix(".parquet"))
    _entries.cache_clear()
    assert newest.status_code == 404 and "run `pangu prepare`" in newest.text
    assert answer.status_code == 404 and "no readable version 0; it has none" in answer.text
    assert client.get(f"{VERSION}/rows/kept/3").status_code == 200
