"""Publishing: the requests that a hub gets, the card that people read, and the licences under which nothing is sent."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml

from pangu.config import ROLES
from pangu.data.example.openmoji import selection
from pangu.data.licences import hub_licence
from pangu.errors import UserError
from pangu.exchange.import_pair import import_pair
from pangu.exchange.model_card import licence_of, model_card, pair_contracts_of
from pangu.exchange.push import push_dataset, push_pair
from pangu.storage import Home
from tests.pipelines.coop.small import stable_diffusion
from tests.small_dataset import NAME, commit_rows, row


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("push")
    stable_diffusion(1).save_pretrained(root / "sd")
    return Path(import_pair(str(root / "sd"), "fox", Home(root), boundary=600).pair)


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as one commit needs; weights go through LFS, everything else into the commit.

    repositories: what was asked to be made; files: what was committed, by path; refuse: answered to every request, if not 0.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.commits = 0
        self.refuse = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuse:
            self.answer({"error": "not yours"}, self.server.refuse)
        elif self.path == "/api/repos/create":
            self.server.repositories.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/owner/fox"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith((".safetensors", ".parquet")) else "regular" for path in files}
            self.answer(
                {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}} for one in objects]
            told = [{**one, "actions": action} for one, action in zip(objects, actions, strict=True)]
            self.answer({"transfer": "basic", "objects": told})
        else:
            kind = "datasets" if self.server.repositories[-1].get("type") == "dataset" else "models"
            assert self.path == f"/api/{kind}/owner/fox/commit/main", self.path
            self.commit([json.loads(line) for line in body.splitlines()])

    def commit(self, lines: list[dict[str, Any]]) -> None:
        self.server.commits += 1
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.blobs[value["oid"]]
        address = f"{self.server.address}/owner/fox/commit/abc"
        self.answer({"commitUrl": address, "commitOid": "abc", "hookOutput": ""})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.answer({})

    def answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()


def test_a_hub_gets_every_file_and_the_card_in_one_commit(pair, monkeypatch) -> None:
    # Its store of chunks is a service of its own; the protocol of large files goes without.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with running_hub() as hub:
        done = push_pair(
            pair, "owner/fox", "CC BY 4.0", {"fid": 12.5}, private=True, endpoint=hub.address, token="hf_x"
        )
        local = {path.relative_to(pair).as_posix(): path.read_bytes() for path in pair.rglob("*") if path.is_file()}
        card = hub.files.pop("README.md").decode()
        compile(hub.files.pop("pipeline.py"), "pipeline.py", "exec")
        assert hub.files == local and hub.commits == 1 and done.files == len(local) + 2
        assert [(one["name"], one["organization"]) for one in hub.repositories] == [("fox", "owner")]
        assert done.repository == f"{hub.address}/owner/fox" and done.commit == "abc"
        assert "| fid | 12.5 |" in card
        hub.refuse = 403
        with pytest.raises(UserError, match="owner/fox could not be pushed to: ") as refused:
            push_pair(pair, "owner/fox", "MIT", endpoint=hub.address, token="hf_x")
        assert "\n" not in str(refused.value)
        hub.refuse, seen = 0, len(hub.repositories)
        with pytest.raises(UserError, match="does not allow to publish"):
            push_pair(pair, "owner/fox", "All rights reserved", endpoint=hub.address)
        with pytest.raises(UserError, match="Neither half says which dataset card"):
            push_pair(pair, "owner/fox", endpoint=hub.address)
        with pytest.raises(UserError, match="'fox' is no repository of the hub"):
            push_pair(pair, "fox", "MIT", endpoint=hub.address)
        with pytest.raises(UserError, match="is no whole pair folder"):
            push_pair(pair / "structure", "owner/fox", "MIT", endpoint=hub.address)
        assert len(hub.repositories) == seen, "nothing was sent"


def test_the_card_says_intervals_data_licence_figures_and_how_to_call_it(pair) -> None:
    contracts = pair_contracts_of(pair)
    trained = {role: one.model_copy(update={"dataset": "openmoji"}) for role, one in contracts.items()}
    licence = licence_of(trained, None)
    assert licence.name and licence == licence_of(trained | {"texture": contracts["texture"]}, None)
    card = model_card(pair, "owner/fox", licence, {"fid": 3.25, "clip": 0.3})
    _, head, body = card.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["library_name"] == "diffusers" and facts["pipeline_tag"] == "text-to-image"
    assert facts["license"] == hub_licence(licence.name)
    for role in ROLES:
        assert f"| `{role}` | {contracts[role].interval} |" in body
    assert "[600, 1000)" in body and "[0, 600)" in body and licence.name in body
    assert body.index("| clip | 0.3 |") < body.index("| fid | 3.25 |")
    assert 'from_pretrained("owner/fox")` is enough' in body
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    known = {
        "CC BY-SA 4.0": "cc-by-sa-4.0",
        "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
        "Apache 2.0": "apache-2.0",
        "MIT": "mit",
    }
    for name, identifier in (known | {"my own": "other"}).items():
        assert hub_licence(name) == identifier and licence_of(contracts, name).name == name
    for name in ("all rights reserved", "CC BY-ND 4.0", "Proprietary", "for internal use", "not asked yet"):
        with pytest.raises(UserError, match="does not allow to publish"):
            licence_of(contracts, name)


LOAD = """
import sys
from datasets import Image, load_dataset
rows = load_dataset(sys.argv[1], cache_dir=sys.argv[2])
assert isinstance(rows["train"].features["image"], Image), rows
print({split: len(found) for split, found in rows.items()}, rows["held_out"][0]["image"].size)
"""


def test_a_dataset_is_pushed_with_a_card_in_one_commit_and_shows_its_pictures(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    home = Home(tmp_path / "home")
    commit_rows(
        home,
        [row(one, index == 1, split="held_out" if index == 3 else "train") for index, one in enumerate(selection(4))],
    )
    with running_hub() as hub:
        done = push_dataset(home, NAME, "owner/fox", endpoint=hub.address, token="hf_x")
        assert done.repository == f"{hub.address}/datasets/owner/fox" and hub.commits == 1
        assert [one["type"] for one in hub.repositories] == ["dataset"] and done.licence == "CC BY-SA 4.0"
        assert sorted(hub.files) == [
            "README.md",
            *(f"data/{split}-00000-of-00001.parquet" for split in ("held_out", "train")),
        ]
        for name, data in hub.files.items():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clone" / name).write_bytes(data)
        commit_rows(home, [row(one, False, license="All rights reserved") for one in selection(2)], "b")
        seen = len(hub.repositories)
        with pytest.raises(UserError, match="'All rights reserved' does not allow to publish"):
            push_dataset(home, NAME, "owner/fox", endpoint=hub.address, licence="MIT")
        commit_rows(home, [row(one, False, license=str(index)) for index, one in enumerate(selection(2))], "c")
        with pytest.raises(UserError, match="has no card here, and its rows 2 licences; name one by --licence"):
            push_dataset(home, NAME, "owner/fox", endpoint=hub.address)
        assert len(hub.repositories) == seen, "nothing was sent"
    _, head, body = hub.files["README.md"].decode().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert (
        facts["license"] == "cc-by-sa-4.0"
        and facts["language"] == ["en", "zh"]
        and facts["size_categories"] == ["n<1K"]
    )
    assert "| train | 3 |" in body and "| zh | 4 |" in body and "| width | 100.8 | 128 | 128 |" in body
    command = [sys.executable, "-c", LOAD, str(tmp_path / "clone"), str(tmp_path / "cache")]
    read = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert read.stdout.strip() == "{'held_out': 1, 'train': 3} (128, 128)", read.stderr
