"""What clients of OpenAI's Images API send by default is drawn: their recorded requests, and the clients themselves."""

import io
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests import subtests
from tests.serve.clients.recorder import recording
from tests.serve.local import LocalServer, serving

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
RECORDED: list[dict[str, Any]] = json.loads((HERE / "recorded.json").read_text())
"""A line a request: `client` with its version, its `call`, `source` (recorded, or the file that was read), what it `needs` of the
server's settings, what it `reads` of the answer, and the request as `recorder` keeps it."""
SETTINGS: dict[str, Any] = {
    "model_aliases": ["dall-e-2", "dall-e-3", "gpt-image-1"],
    "nearest_size": True,
}
"""Those that the page on serving gives; what a client needs are names of these."""
ASKING = ["openai", "litellm", "langchain-community"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a size that the pair draws, as the picture of an edit has to be where a server takes no other."""
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.radial_gradient("L").resize((96, 96)).convert("RGB").save(file)
    return file


@pytest.fixture(scope="module")
def servers(pair_folder: Path) -> Iterator[dict[tuple[str, ...], LocalServer]]:
    """One for each set of settings that a client needs, and one of none."""
    kinds: list[tuple[str, ...]] = [(), ("model_aliases",), ("nearest_size",), ("model_aliases", "nearest_size")]
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(serving(pair_folder, **{name: SETTINGS[name] for name in kind})) for kind in kinds
        }


def sent(server: LocalServer, request: dict[str, Any], picture: Path) -> httpx.Response:
    url = server.url + request["path"]
    if "json" in request:
        return httpx.post(url, json=request["json"], timeout=60)
    parts = [
        (name, ("picture.png", picture.read_bytes(), value["file"]) if isinstance(value, dict) else (None, value))
        for name, value in request["form"]
    ]
    return httpx.post(url, files=parts, timeout=60)


@subtests.parametrize("request_", RECORDED, ids=lambda each: f"{each['client']}: {each['call']}")
def test_a_recorded_request_is_drawn_with_the_settings_that_it_needs_and_refused_without_one_of_them(
    servers: dict[tuple[str, ...], LocalServer], picture: Path, request_: dict[str, Any]
) -> None:
    needs = tuple(request_["needs"])
    answer = sent(servers[needs], request_, picture)
    assert answer.status_code == 200, answer.text
    item = answer.json()["data"][0]
    if request_["reads"] == "url":
        assert Image.open(io.BytesIO(httpx.get(item["url"]).raise_for_status().content)).size == (96, 96)
    else:
        assert item["b64_json"]
    for without in needs:
        left = tuple(name for name in needs if name != without)
        refused = sent(servers[left], request_, picture)
        param = {"model_aliases": "model", "nearest_size": "size"}[without]
        assert refused.status_code in (400, 404) and refused.json()["error"]["param"] == param


def test_the_table_of_the_page_on_serving_names_every_recorded_client_with_its_version() -> None:
    page = (ROOT / "docs/serving.md").read_text()
    missing = {each["client"] for each in RECORDED if each["client"] not in page}
    assert not missing and {each["client"].split(" ")[0] for each in RECORDED} >= {*ASKING, "LibreChat"}


@pytest.mark.long
def test_the_clients_themselves_send_what_was_recorded_and_read_a_picture(
    servers: dict[tuple[str, ...], LocalServer], picture: Path, tmp_path: Path
) -> None:
    """In an environment of their own, in the versions that were recorded. Prints the recording where it differs."""
    pins = sorted({each["client"].replace(" ", "==") for each in RECORDED if each["source"] == "recorded"})
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *pins], capture_output=True, text=True, timeout=600, check=False
    )
    if "Retrying" in installed.stderr and installed.returncode:
        pytest.skip("no package index answers here")
    assert installed.returncode == 0, installed.stderr
    with recording(servers["model_aliases", "nearest_size"].url) as recorder:
        done = subprocess.run(
            [python, str(HERE / "asking.py"), f"{recorder.url}/v1", str(picture)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    came = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each for each in came if "error" in each] == []
    assert len(came) == len(recorder.requests) and all(each["bytes"] > 100 for each in came)
    made = [each | request for each, request in zip(came, recorder.requests, strict=True)]
    kept = [each for each in RECORDED if each["source"] == "recorded"]
    facts = ("client", "call", "reads", "path", "json", "form")
    print(json.dumps(made, indent=1), file=sys.stderr)
    assert [{name: each.get(name) for name in facts} for each in made] == [
        {name: each.get(name) for name in facts} for each in kept
    ]
