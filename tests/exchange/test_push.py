"""Publishing: the requests that a hub gets, the card that people read, and the licences under which nothing is sent."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest
import yaml
from PIL import Image, ImageColor

from pangu.config import ROLES
from pangu.data.card import Licence
from pangu.data.example.openmoji import selection
from pangu.data.licences import hub_licence
from pangu.errors import UserError
from pangu.exchange.import_pair import import_pair
from pangu.exchange.model_card import licence_of, model_card, pair_contracts_of
from pangu.exchange.push import push_dataset, push_pair
from pangu.exchange.widget_pictures import widget_pictures
from pangu.image_grid import png, sample_grid
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.storage import Home
from tests.pipelines.coop.small import stable_diffusion
from tests.small_dataset import NAME, commit_rows, row


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("push")
    stable_diffusion(1).save_pretrained(root / "sd")
    return Path(import_pair(str(root / "sd"), "fox", Home(root), boundary=600).pair)


COMMIT = "a" * 40


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

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        """What reading a dataset of one commit asks: what it is, what lies in it, and the files."""
        path = unquote(self.path.partition("?")[0])
        api, files = "/api/datasets/owner/fox", "/datasets/owner/fox/resolve/"
        if path.startswith(files) and (name := path.removeprefix(files).partition("/")[2]) in self.server.files:
            self.send_file(self.server.files[name])
        elif path == api or path.startswith(f"{api}/revision/"):
            listed = [{"rfilename": name} for name in sorted(self.server.files)]
            facts = {"id": "owner/fox", "sha": COMMIT, "siblings": listed, "private": False, "disabled": False}
            self.answer(facts | {"downloads": 0, "likes": 0, "tags": [], "gated": False})
        elif path.startswith(f"{api}/tree/"):
            _, _, folder = path.removeprefix(f"{api}/tree/").partition("/")
            below = f"{folder}/" if folder else ""
            names = [name for name in sorted(self.server.files) if name.startswith(below)]
            folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {".", folder}
            listed = [self.listed(name) for name in names]
            listed += [{"type": "directory", "oid": COMMIT, "size": 0, "path": one} for one in sorted(folders)]
            if "recursive=true" not in self.path.lower():
                listed = [one for one in listed if "/" not in one["path"].removeprefix(below)]
            self.answer(listed, 200 if listed else 404)
        else:
            self.answer({"error": "not here"}, 404)

    def listed(self, name: str) -> dict[str, Any]:
        data = self.server.files[name]
        return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}

    def send_file(self, data: bytes) -> None:
        begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(begin) : int(end) + 1 if end else len(data)]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {begin}-{int(begin) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuse:
            # A hub that has the repository says so with its address.
            self.answer({"error": "not yours", "url": f"{self.server.address}/owner/fox"}, self.server.refuse)
        elif self.path == "/api/repos/create":
            self.server.repositories.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/owner/fox"})
        elif "/paths-info/" in self.path:
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            self.answer([self.listed(name) for name in wanted if name in self.server.files])
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
        if self.command != "HEAD":
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


REFUSED = {
    401: "the hub knows no such token; log in by `hf auth login`, or set HF_TOKEN (401).",
    403: "this token may not write there; take one with write access to it (403).",
    409: "push again (409).",
    500: "the hub is in trouble; push again later (500).",
}


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
        hub.files.clear()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
        PanGuDrawPipeline.from_pretrained(pair).push_to_hub(
            "owner/fox", token="hf_x"
        )  # diffusers' own, with its own card
        weights = [name for name in local if name.endswith(".safetensors")]
        assert [hub.files[name] for name in weights] == [local[name] for name in weights] and "README.md" in hub.files
        for hub.refuse, said in REFUSED.items():
            with pytest.raises(UserError, match="owner/fox could not be pushed to: ") as refused:
                push_pair(pair, "owner/fox", "MIT", endpoint=hub.address, token="hf_x")
            assert "\n" not in str(refused.value) and said in str(refused.value)
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


def test_the_card_shows_the_first_pictures_of_an_evaluation_with_their_captions(pair, tmp_path) -> None:
    colours = ("red", "blue")
    rows = [[Image.new("RGB", (16, 16), one) for one in colours], [Image.new("RGB", (16, 16), "white")] * 2]
    grid = sample_grid(rows, named=["English captions", "the true pictures"], captions=["a fox", "月亮"])
    (tmp_path / "grid.png").write_bytes(png(grid))
    shown = widget_pictures(tmp_path / "grid.png")
    for each, colour in zip(shown, colours, strict=True):
        with Image.open(io.BytesIO(each.png)) as picture:
            assert picture.size == (16, 16) and picture.getcolors() == [(256, ImageColor.getrgb(colour))]
    card = model_card(pair, "owner/fox", Licence(name="MIT"), {}, shown)
    assert yaml.safe_load(card.split("---\n", 2)[1])["widget"][1] == {
        "text": "月亮", "output": {"url": "images/1.png"},
    }  # fmt: skip
    assert "<Gallery />" in card and widget_pictures(None) == widget_pictures(tmp_path / "gone.png") == []


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
assert rows["train"][0]["image"].getcolors(1 << 20), "a picture"
print({split: len(found) for split, found in rows.items()}, rows["held_out"][0]["image"].size)
"""


@pytest.mark.long
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
    alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    assert loaded(str(tmp_path / "clone"), tmp_path / "cache", **alone) == "{'held_out': 1, 'train': 3} (128, 128)"
    with running_hub() as again:
        again.files = hub.files
        online = {"HF_ENDPOINT": again.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        assert loaded("owner/fox", tmp_path / "fresh", **online) == "{'held_out': 1, 'train': 3} (128, 128)"


def loaded(place: str, cache: Path, **environment: str) -> str:
    """What `datasets` reads in a process of its own, from a folder or from a repository's address."""
    command = [sys.executable, "-c", LOAD, place, str(cache)]
    read = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert read.returncode == 0, read.stderr
    return read.stdout.strip()
